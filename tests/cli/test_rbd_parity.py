"""The same command, given to `rbd` and to rbdfs on one cluster: the same output, the same exit code.

The words and tables are those of 16.2, so other releases' are not compared.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ceph_cluster import CephCluster

pytestmark = pytest.mark.cluster

POOL = "parity"
RELEASE = "16.2"
_OF_ITS_OWN = ("name", "id", "block_name_prefix")
Rbdfs = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def cluster(ceph_cluster: CephCluster) -> Iterator[CephCluster]:
    """A cluster with images of every kind, made by `rbd` in a pool of their own."""
    if ceph_cluster.release != RELEASE:
        pytest.skip(f"compared with the rbd of {RELEASE} only")
    ceph_cluster.ceph("osd", "pool", "create", POOL, "8", "8")
    for command in (
        f"pool init {POOL}",
        f"create {POOL}/vm -s 64M",
        f"bench --io-type write --io-size 64K --io-total 256K --io-pattern seq {POOL}/vm",
        f"snap create {POOL}/vm@s1",
        f"snap protect {POOL}/vm@s1",
        f"bench --io-type write --io-size 4M --io-total 8M --io-pattern seq {POOL}/vm",
        f"snap create {POOL}/vm@s2",
        f"create {POOL}/odd -s 1537M",
        f"create {POOL}/tiny -s 12345B --object-size 64K",
        f"create {POOL}/striped -s 8M --stripe-unit 65536 --stripe-count 4",
        f"create {POOL}/plain -s 8M --image-feature layering",
        f"clone {POOL}/vm@s1 {POOL}/child",
        f"image-meta set {POOL}/vm key value",
        f"image-meta set {POOL}/vm longer-key v",
        f"namespace create {POOL}/ns",
        f"namespace create {POOL}/empty",
        f"create {POOL}/ns/inside -s 1M",
        f"lock add {POOL}/plain somebody",
        f"lock add {POOL}/striped somebody --shared tag",
    ):
        ceph_cluster.rbd(*command.split())
    yield ceph_cluster
    ceph_cluster.ceph("osd", "pool", "rm", POOL, POOL, "--yes-i-really-really-mean-it")


@pytest.fixture
def rbdfs(cluster: CephCluster) -> Rbdfs:
    """Run rbdfs on the cluster."""

    def run(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "rbdfs", *argv],
            env={"CEPH_CONF": str(cluster.conf), "PATH": "/usr/bin:/bin", "HOME": str(cluster.directory)},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


SHOWING = [
    f"ls {POOL}",
    f"ls -p {POOL}",
    f"ls {POOL}/ns",
    f"ls -l {POOL}",
    f"ls -l {POOL}/ns",
    *(f"info {POOL}/{image}" for image in ("vm", "vm@s1", "vm@s2", "odd", "tiny", "striped", "plain", "child")),
    f"info {POOL}/ns/inside",
    f"snap ls {POOL}/vm",
    f"snap ls {POOL}/odd",
    f"image-meta ls {POOL}/vm",
    *(f"lock ls {POOL}/{image}" for image in ("vm", "plain", "striped")),
    f"status {POOL}/vm",
    f"namespace ls {POOL}",
    f"du {POOL}/odd",
    f"du {POOL}/vm",
    f"du {POOL}/vm@s1",
    f"du {POOL}/vm@s2",
    f"du -p {POOL}",
    f"du -p {POOL} --namespace ns",
    f"du -p {POOL} --namespace empty",
    f"ls -l {POOL}/empty",
]


JSON, PRETTY = " --format json", " --format json --pretty-format"
INDENTED = {
    f"ls {POOL}",
    f"lock ls {POOL}/plain",
    f"ls -l {POOL}",
    f"info {POOL}/child",
    f"du -p {POOL}",
}  # once for each kind of structure


CASES = [command + form for command in SHOWING for form in ("", JSON, PRETTY) if form != PRETTY or command in INDENTED]


@pytest.mark.parametrize("command", CASES)
def test_output_is_that_of_rbd(cluster: CephCluster, rbdfs: Rbdfs, command: str) -> None:
    argv = command.split()
    ours, theirs = rbdfs(*argv), cluster.run("rbd", *argv)
    assert (ours.stdout, ours.returncode) == (theirs.stdout, 0), ours.stderr


def test_image_without_metadata_lists_none(cluster: CephCluster, rbdfs: Rbdfs) -> None:
    argv = ["image-meta", "ls", f"{POOL}/odd"]
    assert rbdfs(*argv).stdout == cluster.rbd(*argv)
    assert rbdfs(*argv, "--format", "json").stdout == "{}\n"  # where rbd prints nothing, which is no JSON


def test_value_of_metadata_is_that_of_rbd(cluster: CephCluster, rbdfs: Rbdfs) -> None:
    argv = ["image-meta", "get", f"{POOL}/vm", "key"]
    assert rbdfs(*argv).stdout == cluster.rbd(*argv)


FAILING = [
    "ls no-such-pool",
    f"ls {POOL}/no-such-namespace",
    f"info {POOL}/none",
    f"info {POOL}/vm@none",
    f"du {POOL}/none",
    f"snap ls {POOL}/none",
    f"create {POOL}/vm -s 1M",
    f"create {POOL}/x",
    f"create {POOL}/x -s 1.5G",
    f"create {POOL}/x@y -s 1M",
    *(
        f"create {POOL}/x -s 1M {layout}"
        for layout in (
            "--order 26",
            "--order 11",
            "--object-size 64M",
            "--object-size 100",
            "--stripe-unit 65536",
            "--stripe-count 3",
            "--stripe-unit 65536 --stripe-count 0",
            "--stripe-unit 0 --stripe-count 4",
            "--stripe-unit 65537 --stripe-count 2",
            "--stripe-unit 8M --stripe-count 2",
            "--image-feature bogus",
            "--image-feature layering,object-map",
            "--data-pool no-such-pool",
            "--image-format 1",
            "--image-format 3",
        )
    ),
    f"rm {POOL}/none",
    f"rm {POOL}/vm",
    f"mv {POOL}/none {POOL}/x",
    f"mv {POOL}/odd {POOL}/tiny",
    f"resize {POOL}/vm -s 64M",
    f"resize {POOL}/vm -s 1M",
    f"snap create {POOL}/vm@s1",
    f"snap rm {POOL}/vm@none",
    f"snap rm {POOL}/vm@s1",
    f"snap protect {POOL}/vm@s1",
    f"snap unprotect {POOL}/vm@s2",
    f"snap rollback {POOL}/vm@none",
    f"snap rename {POOL}/vm@s1 {POOL}/vm@s2",
    f"snap rename {POOL}/vm@none {POOL}/vm@s3",
    f"image-meta get {POOL}/vm none",
    f"image-meta rm {POOL}/vm none",
    f"lock ls {POOL}/none",
    f"lock add {POOL}/plain",
    f"lock add {POOL}/plain other",
    f"lock add {POOL}/plain --shared tag other",
    f"lock add {POOL}/striped --shared tug other",
    f"lock rm {POOL}/plain somebody",
    f"lock rm {POOL}/plain somebody nobody",
    f"lock rm {POOL}/plain somebody client.1",
    f"cp {POOL}/vm",
    f"cp {POOL}/vm {POOL}/odd",
    f"cp {POOL}/none {POOL}/x",
    f"cp {POOL}/vm@none {POOL}/x",
    f"cp {POOL}/vm {POOL}/x@y",
    f"import /nonexistent {POOL}/x",
    f"export {POOL}/vm",
    f"info {POOL}/vm --pretty-format",
    f"namespace create {POOL}/ns",
    f"namespace rm {POOL}/ns",
    f"namespace rm {POOL}/none",
    "bogus",
]


@pytest.mark.parametrize("command", FAILING)
def test_exit_code_of_failure_is_that_of_rbd(cluster: CephCluster, rbdfs: Rbdfs, command: str) -> None:
    ours = rbdfs(*command.split())
    theirs = cluster.run("rbd", *command.split(), check=False)
    assert theirs.returncode != 0
    assert ours.returncode == theirs.returncode, ours.stderr
    assert ours.stderr.startswith("rbdfs: ")
    assert "Traceback" not in ours.stderr


LAYOUTS = [
    "--object-size 3K",
    "--object-size 6000",
    "--object-size 40M",
    "--order 20 --object-size 64K",
    "--image-format 2 --stripe-unit 64K --stripe-count 1",
    "--image-feature exclusive-lock,object-map",
    "--image-feature layering,fast-diff",
    "--image-feature layering,operations,striping,data-pool",
    "--image-shared",
    "--image-shared --image-feature layering,exclusive-lock",
    "--no-progress",
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_image_is_laid_out_as_rbd_does_it(cluster: CephCluster, rbdfs: Rbdfs, layout: str) -> None:
    cluster.rbd("create", f"{POOL}/theirs", "-s", "10M", *layout.split())
    made = rbdfs("create", f"{POOL}/ours", "-s", "10M", *layout.split())
    facts = []
    for name in ("theirs", "ours"):
        if name == "theirs" or made.returncode == 0:
            facts.append(json.loads(cluster.rbd("info", f"{POOL}/{name}", "--format", "json")))
            cluster.rbd("rm", "--no-progress", f"{POOL}/{name}")
    assert made.returncode == 0, made.stderr
    varying = {*_OF_ITS_OWN, "create_timestamp", "access_timestamp", "modify_timestamp"}
    theirs, ours = ({key: value for key, value in each.items() if key not in varying} for each in facts)
    assert ours == theirs


def test_image_of_ours_is_an_image_of_theirs(cluster: CephCluster, rbdfs: Rbdfs, tmp_path: Path) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    source.write_bytes(b"".join(bytes([number % 251]) * 70_001 for number in range(100)))
    image = f"{POOL}/ours"
    for command in (
        ["import", str(source), image],
        ["snap", "create", f"{image}@s"],
        ["resize", image, "-s", "100M"],
        ["snap", "rename", f"{image}@s", f"{image}@t"],
        ["snap", "protect", f"{image}@t"],
        ["image-meta", "set", image, "k", "v"],
        ["mv", image, f"{POOL}/renamed"],
    ):
        done = rbdfs(*command)
        assert done.returncode == 0, done.stderr
    image = f"{POOL}/renamed"
    cluster.rbd("export", f"{image}@t", str(back))
    assert back.read_bytes() == source.read_bytes()
    facts = json.loads(cluster.rbd("info", image, "--format", "json"))
    assert (facts["size"], facts["snapshot_count"], facts["flags"]) == (100 << 20, 1, [])
    assert cluster.rbd("image-meta", "get", image, "k") == "v\n"
    cluster.check_object_map(image)
    cluster.rbd("snap", "unprotect", f"{image}@t")
    assert rbdfs("snap", "purge", image).returncode == 0
    assert rbdfs("rm", image).returncode == 0
    assert "renamed" not in cluster.rbd("ls", POOL)


def test_image_of_theirs_is_an_image_of_ours(cluster: CephCluster, rbdfs: Rbdfs, tmp_path: Path) -> None:
    cluster.rbd("export", f"{POOL}/vm", str(tmp_path / "theirs"))
    assert rbdfs("export", f"{POOL}/vm", str(tmp_path / "ours")).returncode == 0
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_a_lock_is_taken_and_taken_away_in_turns(cluster: CephCluster, rbdfs: Rbdfs) -> None:
    for take, away in ((rbdfs, cluster.run), (cluster.run, rbdfs)):
        words = [["rbd"] if tool == cluster.run else [] for tool in (take, away)]
        for argv in (["lock", "add", f"{POOL}/tiny", "it", "--shared", "tag"], ["lock", "add", f"{POOL}/odd", "it"]):
            take(*words[0], *argv)
            (row,) = json.loads(cluster.rbd("lock", "ls", argv[2], "--format", "json"))
            away(*words[1], "lock", "rm", argv[2], "it", row["locker"])
            assert cluster.rbd("lock", "ls", argv[2]) == ""
            assert row["address"] in cluster.ceph("osd", "blocklist", "ls")


@pytest.mark.parametrize("source", ["vm", "vm@s1", "striped", "tiny"])
def test_a_copy_is_that_of_rbd(cluster: CephCluster, rbdfs: Rbdfs, tmp_path: Path, source: str) -> None:
    facts, data = [], []
    for name, tool in (("cp-ours", rbdfs), ("cp-theirs", cluster.rbd)):
        tool("cp", "--no-progress", f"{POOL}/{source}", f"{POOL}/{name}")
        found = json.loads(cluster.rbd("info", f"{POOL}/{name}", "--format", "json"))
        facts.append({key: found[key] for key in found if "timestamp" not in key and key not in _OF_ITS_OWN})
        facts[-1]["du"] = json.loads(cluster.rbd("du", f"{POOL}/{name}", "--format", "json"))["images"][0]["used_size"]
        facts[-1]["metadata"] = cluster.rbd("image-meta", "ls", f"{POOL}/{name}")
        cluster.rbd("export", f"{POOL}/{name}", str(tmp_path / name))
        data.append((tmp_path / name).read_bytes())
        cluster.rbd("rm", f"{POOL}/{name}")
    assert facts[0] == facts[1]
    assert data[0] == data[1]


def test_wrong_key_and_missing_conf_are_said(cluster: CephCluster, rbdfs: Rbdfs, tmp_path: Path) -> None:
    keyring = tmp_path / "keyring"
    other = next(line for line in cluster.keyring.read_text().splitlines() if "key =" in line)
    keyring.write_text(f"[client.stranger]\n{other}\n")
    refused = rbdfs("--id", "stranger", "-k", str(keyring), "ls", POOL)
    assert refused.returncode == 13
    assert "client.stranger" in refused.stderr
    missing = rbdfs("-c", str(tmp_path / "none.conf"), "ls", POOL)
    assert missing.returncode == 22
    assert str(tmp_path / "none.conf") in missing.stderr
