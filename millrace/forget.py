"""`millrace forget`: removes a text, a client or a revision from everything that the service keeps."""

from __future__ import annotations

import argparse
from ipaddress import ip_network

from millrace.arguments import FileName, read_text
from millrace.errors import CommandError
from millrace.service_client import AdminClient, add_client_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", metavar="WHAT", required=True)
    text = kinds.add_parser("text", help="forget one text", description="Forgets one text.")
    text.add_argument(
        "file",
        metavar="FILE",
        type=FileName,
        help="file that contains the text and nothing else; -: standard input, so that the text does not "
        "appear in the process list",
    )
    text.add_argument_group("example", "%(prog)s text.txt")
    client = kinds.add_parser("client", help="forget a client", description="Forgets a client.")
    client.add_argument("client", metavar="CLIENT", help="name of its key, or its address")
    client.add_argument_group("example", "%(prog)s ada")
    revision = kinds.add_parser("revision", help="forget a revision", description="Forgets a revision.")
    revision.add_argument("revision", metavar="REVISION", help="the revision, or its first digits")
    revision.add_argument_group("example", "%(prog)s e9f88bea64d5")
    for one in (text, client, revision):
        add_client_arguments(one, AdminClient)


def run(args: argparse.Namespace) -> int:
    """Prints how many keys were removed or changed, by kind."""
    answer = AdminClient.of(args).post("/admin/forget", _body(args))
    print(f"{answer['keys']} keys removed or changed")
    for kind, count in answer["removed"].items():
        if count and kind != "waiting":
            print(f"  {kind:<9} {count}")
    if answer["removed"].get("waiting"):
        print("The text is being classified at the moment: repeat the command in a minute.")
    if down := answer.get("shards_down"):
        which = ", ".join(map(str, down))
        raise CommandError(f"shard {which} does not answer: repeat the command once it does.", status=1)
    return 0


def _body(args: argparse.Namespace) -> dict[str, str]:
    if args.kind == "text":  # without the last line break of an editor
        return {"text": read_text(args.file).removesuffix("\n").removesuffix("\r")}
    if args.kind == "client":
        return {"client": args.client if _is_address(args.client) else f"key:{args.client}"}
    return {"revision": args.revision}


def _is_address(client: str) -> bool:
    """Whether this is the address of a client, or the network of an IPv6 one, and not the name of a key."""
    try:
        ip_network(client, strict=False)
    except ValueError:
        return False
    return True
