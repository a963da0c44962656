"""ceph.conf, keyrings, flags and environment: who wins, and what is said about a bad file."""

import os
import shutil
import socket
import subprocess
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given, strategies as st

from rbdfs.ceph.cephx.keys import CryptoKey
from rbdfs.ceph.config import Flags, conffile, load, monhost
from rbdfs.ceph.config.conffile import parse
from rbdfs.ceph.config.settings import Settings
from rbdfs.ceph.msgr2.login import Method, Mode
from rbdfs.errors import ConfigError

KEY = CryptoKey(1, bytes(range(16))).to_text()
OTHER_KEY = CryptoKey(2, bytes(range(32))).to_text()


class Files:
    """A directory with a ceph.conf and a keyring."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.conf = directory / "ceph.conf"
        self.keyring = directory / "keyring"
        self.keyring.write_text(
            f'[client.admin]\n\tkey = {KEY}\n\tcaps mon = "allow *"\n[client.vm]\nkey={OTHER_KEY}\n'
        )

    def write(self, text: str) -> Flags:
        self.conf.write_text(text)
        return Flags(conf=str(self.conf))

    def minimal(self, more: str = "") -> Flags:
        return self.write(f"[global]\nmon host = 10.0.0.1\nkeyring = {self.keyring}\n{more}")


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_minimal_configuration(files: Files) -> None:
    options = load(files.minimal(), {})
    assert options.name == "client.admin"
    assert [str(monitor) for monitor in options.monitors] == ["10.0.0.1:3300/0"]
    assert options.key == CryptoKey.from_text(KEY)
    assert options.key_source == str(files.keyring)
    assert options.methods == (Method.CEPHX, Method.NONE)
    assert options.modes == (Mode.CRC, Mode.SECURE)
    assert options.monitor_modes == (Mode.SECURE, Mode.CRC)
    assert options.with_data_crc
    assert options.osd_op_timeout is None


def test_own_section_wins_over_its_types_and_global(files: Files) -> None:
    flags = files.minimal("rados osd op timeout = 1\nms client mode = secure\n[client]\nrados_osd_op_timeout = 2\n")
    assert load(flags, {}).osd_op_timeout == 2
    assert load(flags, {}).modes == (Mode.SECURE,)
    files.conf.write_text(files.conf.read_text() + "[client.vm]\nrados-osd-op-timeout = 3m\n")
    assert load(Flags(conf=flags.conf, id="vm"), {}).osd_op_timeout == 180
    assert load(flags, {}).osd_op_timeout == 2


@pytest.mark.parametrize(
    ("value", "expected"), [("false", False), ("False", False), ("0", False), ("true", True), ("1", True), ("", True)]
)
def test_checksums_may_be_off(files: Files, value: str, expected: bool) -> None:
    assert load(files.minimal(f"ms crc data = {value}\n"), {}).with_data_crc is expected


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("30", 30),
        ("1.5", 1.5),
        ("500ms", 0.5),
        ("30 seconds", 30),
        ("5 minutes", 300),
        ("1m30s", 90),
        ("1m 30", 90),
        ("1hr", 3600),
        ("2 hours", 7200),
        ("1w 2d", 9 * 86400),
        ("0", None),
    ],
)
def test_spans_of_time_are_those_of_ceph(files: Files, value: str, seconds: float | None) -> None:
    assert load(files.minimal(f"rados osd op timeout = {value}\n"), {}).osd_op_timeout == seconds


@pytest.mark.parametrize("value", ["1 2", "1 fortnight", "-1", "5M", "1..5", "s"])
def test_what_is_no_span_of_time_is_refused(files: Files, value: str) -> None:
    with pytest.raises(ConfigError, match="is no span of time"):
        load(files.minimal(f"rados osd op timeout = {value}\n"), {})


def test_variables_are_expanded(files: Files) -> None:
    os.rename(files.keyring, files.directory / "ceph.client.vm.keyring")
    flags = files.write(
        f"[global]\ndir = {files.directory}\nmon host = 10.0.0.1\nkeyring = $dir/none,${{dir}}/$cluster.$name.keyring\n"
    )
    options = load(Flags(conf=flags.conf, id="vm"), {})
    assert options.key_source == str(files.directory / "ceph.client.vm.keyring")


def test_a_keyring_that_cannot_be_read_is_passed_over(files: Files) -> None:
    (files.directory / "locked").mkdir()  # to whom is not root, one of another user
    flags = files.write(f"[global]\nmon host = 10.0.0.1\nkeyring = {files.directory}/locked,{files.keyring}\n")
    assert load(flags, {}).key_source == str(files.keyring)
    files.keyring.unlink()
    with pytest.raises(ConfigError, match="locked: Is a directory"):
        load(flags, {})


def test_variable_that_names_itself_ends(files: Files) -> None:
    flags = files.write("[global]\na = $b\nb = $a\nmon host = 10.0.0.1\nkeyring = /$a/x\nhost = $host $unknown\n")
    assert load(flags, {}).key is None


def test_cluster_name_is_the_files(files: Files, tmp_path: Path) -> None:
    os.rename(files.keyring, tmp_path / "east.client.admin.keyring")
    (tmp_path / "east.conf").write_text(f"mon host = 10.0.0.1\nkeyring = {tmp_path}/$cluster.$name.keyring\n")
    assert load(Flags(conf=str(tmp_path / "east.conf")), {}).key is not None
    assert load(Flags(conf=str(tmp_path / "east.conf"), cluster="west"), {}).key is None


def test_flags_win_over_arguments_and_environment_and_file(files: Files) -> None:
    flags = files.minimal()
    other = files.directory / "other"
    other.write_text(f"[client.vm]\nkey = {KEY}\n")
    environ = {
        "CEPH_CONF": flags.conf or "",
        "CEPH_KEYRING": str(other),
        "CEPH_ARGS": "--id vm -m 10.0.0.7 --ms-client-mode=secure --rados-osd-op-timeout 7 --no-mon-config",
    }
    options = load(None, environ)
    assert (options.name, options.key, options.osd_op_timeout) == ("client.vm", CryptoKey.from_text(KEY), 7)
    assert options.modes == (Mode.SECURE,)
    assert options.monitors[0].host == "10.0.0.7"
    options = load(Flags(name="client.vm", mon_host="10.0.0.8", keyring=str(files.keyring)), environ)
    assert options.key == CryptoKey.from_text(OTHER_KEY)
    assert options.monitors[0].host == "10.0.0.8"
    assert (
        load(Flags(id="admin", keyring=str(files.keyring)), environ | {"CEPH_ARGS": "-n client.vm"}).name
        == "client.admin"
    )


def test_key_file_and_key_in_the_configuration_go_before_keyrings(files: Files) -> None:
    path = files.directory / "secret"
    path.write_text(OTHER_KEY + "\n")
    flags = files.minimal()
    assert load(Flags(conf=flags.conf, keyfile=str(path)), {}).key == CryptoKey.from_text(OTHER_KEY)
    assert load(files.minimal(f"key = {OTHER_KEY}"), {}).key == CryptoKey.from_text(OTHER_KEY)


def test_monitors_of_old_files(files: Files) -> None:
    flags = files.write("[mon.a]\nhost = a\nmon addr = 10.0.0.1:6789\n[mon.b]\nmon addr = 10.0.0.2:6789\n")
    assert [str(monitor) for monitor in load(flags, {}).monitors] == ["10.0.0.1:3300/0", "10.0.0.2:3300/0"]


def test_clusters_without_authentication_need_no_key(files: Files) -> None:
    options = load(files.write("[global]\nmon host = 10.0.0.1\nauth client required = none\nfsid = " + "1" * 32), {})
    assert (options.methods, options.key) == ((Method.NONE,), None)
    assert options.fsid == UUID("1" * 32)


def test_keyring_that_is_not_there_is_told(files: Files) -> None:
    options = load(files.write("[global]\nmon host = 10.0.0.1\nkeyring = /nonexistent/$name\n"), {})
    assert options.key is None
    assert options.key_source == "no keyring at /nonexistent/client.admin"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[global]\nmon host = 10.0.0.1\nnonsense\n", r"ceph\.conf:3: neither a section nor `key = value`: nonsense"),
        ("[global\nmon host = 10.0.0.1\n", r"ceph\.conf:1: section without its closing bracket"),
        ('[global]\nmon host = "10.0.0.1\n', r"ceph\.conf:2: quotes"),
        ("[global]\nfsid = 12\nmon host = 10.0.0.1", r"ceph\.conf:2: fsid = 12 is no UUID"),
        ("[global]\n", r"ceph\.conf: no monitors"),
        ("[global]\n\nmon host = [v2:10.0.0.1\n", r"ceph\.conf:3: brackets do not match"),
        ("[global]\nmon host = 10.0.0.1:99999\n", r"ceph\.conf:2: 10\.0\.0\.1:99999 is no address"),
        ("mon host = 10.0.0.1\nms client mode = plain\n", r"ceph\.conf:2: ms_client_mode = plain: may be crc, secure"),
        ("mon host = 10.0.0.1\nrados osd op timeout = soon\n", r"ceph\.conf:2: .* soon is no span of time"),
        ("mon host = 10.0.0.1\nms crc data = off\n", r"ceph\.conf:2: ms_crc_data = off is neither true nor false"),
        ("mon host = 10.0.0.1\n[client]\nkey = x\n", r"ceph\.conf:3: key is not base64"),
    ],
)
def test_bad_file_is_named_with_its_line(files: Files, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(files.write(text), {})


def test_bad_keyring_is_named_with_its_line(files: Files) -> None:
    files.keyring.write_text("[client.admin]\n\n  key = AAAA\n[client.x]\n caps mon = x\n")
    flags = files.minimal()
    with pytest.raises(ConfigError, match=r"keyring:3: "):
        load(flags, {})
    with pytest.raises(ConfigError, match=r"keyring: the entry for client\.x has no key"):
        load(Flags(conf=flags.conf, id="x"), {})
    with pytest.raises(ConfigError, match=r"keyring: no entry for client\.y, only for client\.admin, client\.x"):
        load(Flags(conf=flags.conf, id="y"), {})


def test_file_that_was_asked_for_must_exist() -> None:
    with pytest.raises(ConfigError, match=r"/nonexistent/ceph\.conf: no such file"):
        load(Flags(conf="/nonexistent/ceph.conf"), {})
    with pytest.raises(ConfigError, match=r"/nonexistent/other: no such file"):
        load(None, {"CEPH_CONF": "/nonexistent/other"})
    with pytest.raises(ConfigError, match="Is a directory"):
        load(Flags(conf="/"), {})
    assert load(Flags(mon_host="10.0.0.1", cluster="nonexistent"), {"HOME": "/nonexistent"}).conf is None


@pytest.mark.parametrize("arguments", ["stray", "-m 'x"])
def test_bad_arguments_are_named(arguments: str) -> None:
    with pytest.raises(ConfigError, match="CEPH_ARGS"):
        load(None, {"CEPH_ARGS": arguments})


def test_only_clients_connect(files: Files) -> None:
    for name in ("osd.0", "client.", "admin"):
        with pytest.raises(ConfigError, match="client's name"):
            load(Flags(conf=files.minimal().conf, name=name), {})


NAMES = {"mon1": ["192.0.2.1"], "both": ["192.0.2.2", "2001:db8::2"]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.1", ["10.0.0.1:3300"]),
        ("10.0.0.1,10.0.0.2 10.0.0.3;10.0.0.4", ["10.0.0.1:3300", "10.0.0.2:3300", "10.0.0.3:3300", "10.0.0.4:3300"]),
        ("10.0.0.1:3333", ["10.0.0.1:3333"]),
        ("10.0.0.1:6789", ["10.0.0.1:3300"]),
        ("[v2:10.0.0.1:3300/0,v1:10.0.0.1:6789/0]", ["10.0.0.1:3300"]),
        (
            "[v1:10.0.0.1:6789/0,v2:10.0.0.1:3400/0] [v2:10.0.0.2:3300,v1:10.0.0.2:6789]",
            ["10.0.0.1:3400", "10.0.0.2:3300"],
        ),
        ("[v1:10.0.0.1:6789/0]", ["10.0.0.1:3300"]),
        ("v1:10.0.0.1", ["10.0.0.1:3300"]),
        ("v1:10.0.0.1:4701, [v1:10.0.0.2:4702/0]", ["10.0.0.1:4701", "10.0.0.2:4702"]),
        ("[v2:10.0.0.1:3300,v1:10.0.0.1:4701]", ["10.0.0.1:3300"]),
        ("v2:10.0.0.1:3300/0", ["10.0.0.1:3300"]),
        ("any:10.0.0.1:3300/0", ["10.0.0.1:3300"]),
        ("fd00::1", ["[fd00::1]:3300"]),
        ("[fd00::1]", ["[fd00::1]:3300"]),
        ("[fd00::1]:3333, [fd00::2]:6789", ["[fd00::1]:3333", "[fd00::2]:3300"]),
        ("[v2:[fd00::1]:3300/0,v1:[fd00::1]:6789/0]", ["[fd00::1]:3300"]),
        ("mon1", ["192.0.2.1:3300"]),
        ("mon1:3301, both, mon1:3301", ["192.0.2.1:3301", "192.0.2.2:3300", "[2001:db8::2]:3300"]),
        ("", []),
        (" , ", []),
    ],
)
def test_forms_of_mon_host(text: str, expected: list[str]) -> None:
    monitors = monhost.parse(text, "here", NAMES.__getitem__)
    assert [str(monitor).removesuffix("/0") for monitor in monitors] == expected


def test_link_local_address_has_its_interface() -> None:
    (monitor,) = monhost.parse("fe80::1%lo", "here")
    assert monitor.scope_id == socket.if_nametoindex("lo")
    assert monitor.sockaddr == ("fe80::1", 3300, 0, monitor.scope_id)
    with pytest.raises(ConfigError, match="no network interface nosuch0"):
        monhost.parse("fe80::1%nosuch0", "here")


def test_name_that_nobody_has_is_told() -> None:
    with pytest.raises(ConfigError, match=r"monitor mon1\.invalid: "):
        monhost.parse("mon1.invalid", "here")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a b = c", "c"),
        ("a_b=c # comment", "c"),
        ("a-b = c ; comment", "c"),
        ('a b = "c # d"  # comment', "c # d"),
        ("a b = 'c \"d\"'", 'c "d"'),
        (r"a b = c \# d", "c # d"),
        ("a b = one \\\n   two", "one    two"),
        ("a b = one\\\ntwo", "onetwo"),
        ("# comment \\\na b = c", "c"),
        ("x = y # comment \\\na b = c", "c"),
        ("a  b =", ""),
        ("# a b = x\n; a b = y\na b = c = d", "c = d"),
        ("[other]\na b = x\n[global]\na b = c", "c"),
    ],
)
def test_lines_of_a_file(text: str, value: str) -> None:
    assert parse(text, "file")["global"]["a_b"].value == value


@given(st.text(alphabet="[]=#;\"'\\\n ab"))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        parse(text, "file")
    except ConfigError as err:
        assert str(err).startswith("file:")  # noqa: PT017


@pytest.mark.skipif(not shutil.which("ceph-conf"), reason="ceph-conf, to compare with, is not installed")
@pytest.mark.parametrize(
    "text",
    [
        "[global]\nkey a = c\n",
        "[global]\nkey_a=c # x\n",
        "[global]\nkey a = c;x\n",
        "[global]\nkey a = c#x\n",
        "[global]\nkey a = c \\# d\n",
        "[global]\nkey a = a\\\\b\n",
        "[global]\nkey a = \\$name\n",
        "[global]\nkey a = 'c d' # x\n",
        '[global]\nkey a = "c\\"d"\n',
        "[global]\n\tkey   a   =   x y  z  \n",
        "[global]\nkey a = x=y\n",
        "[global]\nkey a =\n",
        "[global]\nkey a = x\nkey_a = y\n",
        "[global]\nKEY A = upper\n",
        "[global] # comment\r\nkey a = crlf\r\n",
        "key a = before any section\n",
        "[global]\nkey a = one \\\ntwo\n",
        "[global]\nkey a = one\\\n  two\n",
        "[global]\n# comment \\\nkey a = one\n",
        "[global]\nkey b = c ; comment \\\nkey a = one\n",
        "[client.u]\n[global]\nkey a = 5\n[client.u]\nkey a = 6\n",
        "[client]\nkey a = y\n[global]\nkey a = x\n",
        "[client.other]\nkey a = 1\n",
        "[global]\nkey a = $name-$id-$type-$cluster-$num $host $unknown $$name {x}\n",
        "[global]\nkey a = [v2:1.2.3.4:3300/0,v1:1.2.3.4:6789/0]\n",
        "[global]\nnonsense\n",
        "[global\nkey a = 1\n",
        '[global]\nkey a = "x\n',
        '[global]\nkey a = "x" y\n',
        "[]\nkey a = 1\n",
    ],
)
def test_values_are_those_that_ceph_reads(tmp_path: Path, text: str) -> None:
    path = tmp_path / "ceph.conf"
    path.write_bytes(text.encode())
    command = ["ceph-conf", "-c", str(path), "--name", "client.u", "--lookup", "key a"]
    theirs = subprocess.run(command, capture_output=True, text=True, check=False)
    if "parse error" in theirs.stderr:
        with pytest.raises(ConfigError, match=rf"{path}:\d: "):
            conffile.read(path)
        return
    ours = Settings(conffile.read(path), "client.u", "ceph", {}).get("key_a", "absent")
    assert ours == (theirs.stdout.removesuffix("\n") if theirs.returncode == 0 else "absent")
