"""Ops for the objecter, and what comes back of them."""

from ceph.osd_peer import Peers

from rbdfs.rados.api import Outcome
from rbdfs.rados.ops import Read, ReadOp, SnapContext, SnapId, Write, WriteOp

READ = ReadOp([Read(0, 100)])
WRITE = WriteOp([Write(0, b"data")], SnapContext(5, (SnapId(5), SnapId(3))))


class Client:
    """Submits, and keeps what comes back."""

    def __init__(self, cluster: Peers) -> None:
        self.cluster = cluster
        self.outcomes: dict[str, list[Outcome]] = {}

    def submit(self, label: str, op: ReadOp | WriteOp, name: str = "") -> None:
        outcomes = self.outcomes.setdefault(label, [])
        self.cluster.client.submit(self.cluster.target(name or label), op, outcomes.append)

    def outcome(self, label: str) -> Outcome:
        [outcome] = self.outcomes[label]  # exactly one, ever
        return outcome
