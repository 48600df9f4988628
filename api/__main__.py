"""`python -m api`: runs the API with settings from the environment. `millrace api` has options, too."""

from __future__ import annotations

from argparse import ArgumentParser

from api.server.run import serve
from api.settings import ApiSettings

if __name__ == "__main__":
    ArgumentParser(prog="python -m api", description=__doc__).parse_args()
    serve(ApiSettings())
