"""Where the monitors are: the forms of `mon host`, as addresses of messenger 2.

    10.0.0.1, 10.0.0.2:3300             separated by commas, semicolons or blanks
    [v2:10.0.0.1:3300/0,v1:10.0.0.1:6789/0]
    [fd00::1]:3300, fd00::1, [v2:[fd00::1]:3300/0]
    mon.example.com                     every address that the name has

Without a port it is 3300. Messenger 1's default port, 6789, stands for the same monitor's port 3300. Any other port
stays as it is, `v1:` or not, since nothing tells where that monitor speaks messenger 2: whoever connects hears what is
there. An address `v1:` does not count where the same brackets name a newer one.
"""

import ipaddress
import re
import socket
from collections.abc import Callable, Iterator

from rbdfs.entities import AddrType, EntityAddr
from rbdfs.errors import ConfigError

PORT = 3300
_OLD_PORT = 6789
_ADDRESS = re.compile(
    r"(?:(v1|v2|any):)?(?:\[([0-9A-Fa-f:.%\w]+)\]|([^\[\]:/]+)|([0-9A-Fa-f:.]+))(?::(\d+))?(?:/(\d+))?$"
)

Resolve = Callable[[str], list[str]]


def resolve_name(host: str) -> list[str]:
    """The addresses of a name, by the system's resolver; it waits."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as err:
        raise ConfigError(f"monitor {host}: {err.strerror}") from err
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def parse(text: str, where: str, resolve: Resolve = resolve_name) -> list[EntityAddr]:
    """All addresses that `text` names, each once; ConfigError names what cannot be understood."""
    addresses: dict[EntityAddr, None] = {}
    for group in _split(text, where):
        parsed = [_parse_address(address, where) for address in group]
        newest = [address for address in parsed if address[0] != "v1"] or parsed
        for kind, host, port, nonce in newest:
            if kind in ("v1", "") and port == _OLD_PORT:
                port = PORT
            for ip in [host] if _is_ip(host) else resolve(host):
                addresses[_make_address(ip, port or PORT, nonce)] = None
    return list(addresses)


def _split(text: str, where: str) -> Iterator[list[str]]:
    """The monitors' addresses: a list for each pair of brackets that holds several, else for each address."""
    depth, start = 0, 0
    for index, char in enumerate(text + ","):
        if char == "[":
            depth += 1
        elif char == "]":
            depth -= 1
        elif char in ",; \t\n" and depth == 0:
            part = text[start:index].strip()
            start = index + 1
            if part.startswith("[") and part.endswith("]") and re.match(r"\[(v1|v2|any):", part):
                yield [address for address in re.split(r"[,; ]+", part[1:-1]) if address]
            elif part:
                yield [part]
    if depth:
        raise ConfigError(f"{where}: brackets do not match: {text}")


def _parse_address(text: str, where: str) -> tuple[str, str, int, int]:
    bare = text.removeprefix("v1:").removeprefix("v2:").removeprefix("any:")
    if _is_ip(bare):  # an IPv6 address without brackets, in which nothing is a port
        return text[: len(text) - len(bare)].rstrip(":"), bare, 0, 0
    match = _ADDRESS.match(text)
    if match is None or int(match[5] or 0) > 65535:
        raise ConfigError(f"{where}: {text} is no address of a monitor")
    kind, bracketed, host, ipv6, port, nonce = match.groups()
    return kind or "", bracketed or host or ipv6, int(port or 0), int(nonce or 0)


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _make_address(ip: str, port: int, nonce: int) -> EntityAddr:
    address = ipaddress.ip_address(ip)
    scope = getattr(address, "scope_id", None)
    if scope:
        try:
            scope_id = int(scope) if scope.isdigit() else socket.if_nametoindex(scope)
        except OSError as err:
            raise ConfigError(f"monitor {ip}: no network interface {scope}") from err
        return EntityAddr(AddrType.MSGR2, str(address).partition("%")[0], port, nonce, scope_id)
    return EntityAddr(AddrType.MSGR2, str(address), port, nonce)
