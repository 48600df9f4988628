"""python -m api: runs the API with settings from the environment."""

from __future__ import annotations

from api.server.run import serve
from api.settings import ApiSettings

if __name__ == "__main__":
    serve(ApiSettings())
