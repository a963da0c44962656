"""What README says is true: its commands are run, and its words and `--help` name the same things."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ceph_cluster import CephCluster

from rbdfs.cli.main import ALIASES, COMMANDS, command_parser, parse, top_parser
from rbdfs.cli.mount_options import FLAGS, VALUES
from rbdfs.cli.output import write

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```sh ?(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)

needs_fuse = pytest.mark.skipif(not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="needs /dev/fuse")


def run_script(script: str, directory: Path, replacements: dict[str, str], **environment: str) -> str:
    """Run lines of README in bash, stopping at the first that fails, with `rbdfs` being this tree's."""
    tools = directory / "bin"
    tools.mkdir()
    (tools / "rbdfs").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m rbdfs "$@"\n')
    (tools / "rbdfs").chmod(0o755)
    places = {"/mnt/": f"{directory}/mnt/", "/tmp/": f"{directory}/", "sudo ": "", **replacements}
    script = re.sub("|".join(map(re.escape, places)), lambda match: places[match[0]], script)
    result = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", script],
        env={
            **os.environ,
            "PATH": f"{tools}:{os.environ['PATH']}:/usr/sbin:/sbin",
            "PYTHONPATH": str(ROOT),
            "RBDFS_RUN_DIR": str(directory / "run"),
            "XDG_STATE_HOME": str(directory / "state"),
            **environment,
        },
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=150,
    )
    output = result.stdout.decode(errors="replace")
    subprocess.run(["fusermount3", "-u", "-z", str(directory / "mnt/rbd")], check=False, capture_output=True)
    assert result.returncode == 0, output
    return output


@needs_fuse
@pytest.mark.mount
@pytest.mark.slow
def test_commands_of_the_readme_work_in_their_order(tmp_path: Path) -> None:
    is_root = os.geteuid() == 0 and Path("/dev/loop-control").exists()
    wanted = ("", "root") if is_root else ("",)
    script = "".join(block for tag, block in BLOCKS if tag in wanted)
    assert "contrib/install && " in script
    output = run_script(script, tmp_path, {"contrib/install && ": ""}, RBDFS_STORE=str(tmp_path / "store"))
    assert "created pool data" in output
    assert "Images are identical." in output


@needs_fuse
@pytest.mark.mount
@pytest.mark.cluster
@pytest.mark.slow
def test_commands_of_the_readme_work_on_a_cluster(tmp_path: Path, ceph_cluster: CephCluster) -> None:
    if ceph_cluster.prefix:
        pytest.skip("README's rbd is this machine's, which knows no key of a newer release")
    script = "".join(block for tag, block in BLOCKS if tag == "ceph")
    conf = str(ceph_cluster.conf)
    path = f"{tmp_path}/bin:{ceph_cluster.tools()}:{os.environ['PATH']}:/usr/sbin:/sbin"
    output = run_script(script, tmp_path, {"/etc/ceph/ceph.conf": conf}, CEPH_CONF=conf, PATH=path)
    assert "size 1 GiB in 256 objects" in output
    ceph_cluster.rbd("rm", "data/new")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_install_works_and_works_again(tmp_path: Path) -> None:
    command = ["contrib/install", "--prefix", str(tmp_path / "prefix"), "--bindir", str(tmp_path / "bin")]
    for _ in range(2):
        result = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, timeout=390, check=False)
        assert result.returncode == 0, result.stderr.decode()
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    shown = subprocess.run(
        [tmp_path / "bin/rbdfs", "--version"], env=environment, cwd=tmp_path, capture_output=True, check=True
    )
    assert re.fullmatch(rb"rbdfs \d+\.\d+\.\d+\n", shown.stdout)
    made = subprocess.run(
        [tmp_path / "bin/rbdfs", "--store", tmp_path / "store", "pool", "create", "data"],
        env=environment,
        check=False,
        capture_output=True,
    )
    assert made.returncode == 0, made.stderr.decode()
    shutil.rmtree(tmp_path / "prefix")


def readme_command_lines() -> list[str]:
    """Every `rbdfs ...` of README, as typed."""
    found = [
        line
        for _, block in BLOCKS
        for part in re.split(r"\n|&&|\|", re.sub(r"\s+#.*", "", block))
        if (line := part.strip().removeprefix("sudo ")).startswith("rbdfs ")
    ]
    assert len(found) > 10
    return found


@pytest.mark.parametrize("line", readme_command_lines())
def test_command_line_of_the_readme_is_understood(line: str) -> None:
    assert parse(shlex.split(line)[1:]).run


def table_of_commands() -> set[str]:
    rows = re.findall(r"^\| (`.*?`) \|", README, re.MULTILINE)
    return {word.split()[0] for row in rows for word in re.findall(r"`([^`]+)`", row)}


def test_readme_and_help_name_the_same_commands() -> None:
    assert table_of_commands() == set(COMMANDS)
    listed = re.findall(r"^  ([a-z-]+)  +[A-Z]", top_parser().format_help(), re.MULTILINE)
    assert listed == list(COMMANDS)


def test_readme_and_help_name_the_same_verbs() -> None:
    for command, verbs in re.findall(r"`([a-z-]+) ([a-z\\|]+)`", README):
        if command not in COMMANDS or "|" not in verbs:
            continue
        help_text = command_parser(command).format_help()
        listed = re.findall(r"^    ([a-z]+)(?: \(.*\))? ", help_text, re.MULTILINE)
        assert set(listed) == set(verbs.split("\\|")), command


def test_every_option_of_the_mount_in_the_readme_exists() -> None:
    line = re.search(r"Mount options, behind `-o`: (.*?) and more", README, re.DOTALL)
    assert line
    named = [word.rstrip("=") for word in re.findall(r"`([^`]+)`", line[1])]
    assert named
    assert set(named) <= {*FLAGS, *VALUES}


@pytest.mark.parametrize("name", [*COMMANDS, *ALIASES])
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        parse(["help", name])
    assert leaving.value.code == 0
    write("")
    assert COMMANDS[ALIASES.get(name, name)].summary in " ".join(capsys.readouterr().out.split())
