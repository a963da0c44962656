"""What can befall a cluster, one after the other, while a load goes on."""

import random
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio
from ceph_cluster import CephCluster

# An OSD that says nothing is down after some seconds and not after twenty; out is only what a test puts out.
CONF = """\
osd heartbeat interval = 1
osd heartbeat grace = 4
mon osd adjust heartbeat grace = false
mon osd down out interval = 86400
mon osd report timeout = 60
osd pool default min size = 1
osd max pg per osd hard ratio = 10
"""
RECOVERY_SECONDS = 90.0


class Faults:
    """A cluster of three OSDs and three monitors, and what is done to it."""

    def __init__(self, cluster: CephCluster, seed: int) -> None:
        self.cluster = cluster
        self._random = random.Random(seed)

    async def ceph(self, *arguments: str) -> str:
        """`ceph ...` while the load goes on."""
        return await trio.to_thread.run_sync(partial(self.cluster.ceph, *arguments))

    async def json(self, *arguments: str) -> Any:
        """`ceph ... --format json`, decoded."""
        return await trio.to_thread.run_sync(partial(self.cluster.json, *arguments))

    async def recovered(self) -> None:
        """Wait until no placement group is without a full set of OSDs, so that the next fault costs no data."""
        with trio.fail_after(RECOVERY_SECONDS):
            while True:
                stat = await self.json("pg", "stat")
                states = stat.get("pg_summary", stat)["num_pg_by_state"]
                if all(state["name"].startswith("active+clean") for state in states):  # +snaptrim is clean enough
                    return
                await trio.sleep(0.3)

    def _some_osd(self) -> int:
        return self._random.randrange(self.cluster.osds)

    # OSDs

    async def osd_killed_and_restarted(self) -> None:
        """As a crash does; the restart comes before the map says anything, or after."""
        osd = f"osd.{self._some_osd()}"
        await trio.to_thread.run_sync(self.cluster.stop, osd)
        await trio.sleep(self._random.choice((0.2, 6)))
        self.cluster.start(osd)

    async def osd_ended_and_restarted(self) -> None:
        """As an upgrade does: the OSD says good-bye."""
        osd = f"osd.{self._some_osd()}"
        await trio.to_thread.run_sync(self.cluster.stop, osd, signal.SIGTERM)
        await trio.sleep(2)
        self.cluster.start(osd)

    async def osd_marked_down(self) -> None:
        """It lives, sees that it is thought dead, and comes back."""
        await self.ceph("osd", "down", str(self._some_osd()))

    async def osd_out_and_in(self) -> None:
        """Its data moves away and comes back; meanwhile pg_temp names who serves."""
        osd = str(self._some_osd())
        await self.ceph("osd", "out", osd)
        await trio.sleep(3)
        await self.ceph("osd", "in", osd)

    async def osd_suspended(self) -> None:
        """It neither answers nor closes its connections, until it is thought dead; then it goes on, late."""
        osd = f"osd.{self._some_osd()}"
        self.cluster.send_signal(osd, signal.SIGSTOP)
        await trio.sleep(self._random.choice((2, 9)))
        self.cluster.send_signal(osd, signal.SIGCONT)

    async def osds_drop_connections(self) -> None:
        """Every so many reads or writes of a socket, an OSD closes it in the middle of whatever it carries."""
        await self.ceph("config", "set", "osd", "ms_inject_socket_failures", self._random.choice(("150", "600")))
        await trio.sleep(8)
        await self.ceph("config", "rm", "osd", "ms_inject_socket_failures")

    async def osds_suspended_together(self) -> None:
        """As if this machine had slept."""
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for osd in range(self.cluster.osds):
                self.cluster.send_signal(f"osd.{osd}", number)
            await trio.sleep(5)

    # The map

    async def pool_split(self) -> None:
        """More placement groups: objects move to new ones."""
        await self._change_pg_num(5)

    async def pool_merged(self) -> None:
        """Fewer of them."""
        await self._change_pg_num(-3)

    async def _change_pg_num(self, change: int) -> None:
        for pool in ("data", "erasure"):
            pg_num = (await self.json("osd", "pool", "get", pool, "pg_num"))["pg_num"]
            await self.ceph("osd", "pool", "set", pool, "pg_num", str(max(4, pg_num + change)))
            await self.ceph("osd", "pool", "set", pool, "pgp_num", str(max(4, pg_num + change)))

    async def primaries_moved(self) -> None:
        """Another affinity: many placement groups are led by another OSD at once."""
        osd = str(self._some_osd())
        await self.ceph("osd", "primary-affinity", osd, "0")
        await trio.sleep(1)
        await self.ceph("osd", "primary-affinity", osd, "1")

    async def weights_changed(self) -> None:
        """CRUSH maps anew."""
        osd = str(self._some_osd())
        await self.ceph("osd", "reweight", osd, "0.6")
        await trio.sleep(1)
        await self.ceph("osd", "reweight", osd, "1")

    async def paused(self) -> None:
        """The administrator stops all ops and lets them go on."""
        await self.ceph("osd", "set", "pause")
        await trio.sleep(2)
        await self.ceph("osd", "unset", "pause")

    # Monitors

    async def monitor_killed_and_restarted(self) -> None:
        """Perhaps the one that we talk to; the map changes meanwhile."""
        monitor = f"mon.{self._random.choice('abc')}"
        await trio.to_thread.run_sync(self.cluster.stop, monitor)
        await trio.sleep(3)
        await self.ceph("osd", "down", str(self._some_osd()))
        self.cluster.start(monitor)

    async def monitor_suspended(self) -> None:
        """It answers nothing and closes nothing."""
        monitor = f"mon.{self._random.choice('abc')}"
        self.cluster.send_signal(monitor, signal.SIGSTOP)
        await trio.sleep(8)
        self.cluster.send_signal(monitor, signal.SIGCONT)

    async def monitors_without_quorum(self) -> None:
        """Two of three are dead when an OSD dies: nobody may say who leads now, until one is back."""
        osd, dead = f"osd.{self._some_osd()}", self._random.sample(["mon.a", "mon.b", "mon.c"], 2)
        for daemon in (*dead, osd):
            await trio.to_thread.run_sync(self.cluster.stop, daemon)
        await trio.sleep(4)
        for daemon in (*dead, osd):
            self.cluster.start(daemon)

    # Several

    async def osd_killed_while_pool_splits(self) -> None:
        """Two reasons to send again in maps one after the other."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.pool_split)
            nursery.start_soon(self.osd_killed_and_restarted)


# Every fault by its name.
FAULTS: dict[str, Callable[[Faults], Awaitable[None]]] = {
    fault.__name__: fault
    for fault in (
        Faults.osd_killed_and_restarted,
        Faults.osd_ended_and_restarted,
        Faults.osd_marked_down,
        Faults.osd_out_and_in,
        Faults.osd_suspended,
        Faults.osds_drop_connections,
        Faults.osds_suspended_together,
        Faults.pool_split,
        Faults.pool_merged,
        Faults.primaries_moved,
        Faults.weights_changed,
        Faults.paused,
        Faults.monitor_killed_and_restarted,
        Faults.monitor_suspended,
        Faults.monitors_without_quorum,
        Faults.osd_killed_while_pool_splits,
    )
}
