"""Which files are tables whose cells have types, and what reads them: the extra `tables`."""

from __future__ import annotations

from importlib.util import find_spec

from text_files.errors import BadFile

# By the name of the format: that in sentences, the package that reads and writes it, and its first bytes.
TYPED = {
    "parquet": ("Parquet", "pyarrow", (b"PAR1",)),
    "arrow": ("Arrow", "pyarrow", (b"ARROW1", b"\xff\xff\xff\xff")),
    "xlsx": ("XLSX", "openpyxl", (b"PK\x03\x04",)),
}
_SHEETS = (".xlsx", ".xlsm")


def typed_format(suffix: str, head: bytes) -> str:
    """The name of the format of a file that begins with `head`; empty if its cells have no types."""
    found = next((name for name, (_, _, marks) in TYPED.items() if head.startswith(marks)), "")
    return "" if found == "xlsx" and suffix not in _SHEETS and b"xl/" not in head else found


def require(name: str) -> None:
    """Raises BadFile if the package for a format is not installed."""
    said, package, _ = TYPED[name]
    if find_spec(package) is None:
        install = "pip install 'millrace-server[tables]' where it is read, or save it as CSV or NDJSON"
        raise BadFile("not_text", f"a file of {said} needs {package}: {install}")
