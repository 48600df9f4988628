from __future__ import annotations

from tests.unit.api.pretended import Service


async def test_smoke(service: Service) -> None:
    r = await service.predict("a", "b")
    print(r.status_code, r.headers, r.text)
    r = await service.predict("a", "b")
    print(r.status_code, r.headers, r.text)
    for p in ("/health", "/livez", "/readyz", "/metrics", "/nope", "/openapi.json", "/docs"):
        r = await service.client.get(p)
        print(p, r.status_code, r.headers, r.text[:300])
    r = await service.client.get("/predict")
    print(r.status_code, r.headers, r.text)
