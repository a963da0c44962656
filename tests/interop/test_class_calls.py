"""Object classes on a live cluster: our client's calls get what librados' did, on every release."""

import pytest
from ceph_cluster import CephCluster
from local.classes.class_calls import CALLS, Step, changes, comparable_output, comparable_state, read_transcript

from rbdfs.connect import CephAddress, ConnectFlags, open_cluster
from rbdfs.errors import NotFound, RbdfsError
from rbdfs.local.classes.registry import CLASSES
from rbdfs.rados import calls
from rbdfs.rados.api import IoCtx
from rbdfs.rados.ops import Call, GetXattrs, ReadOp, WriteOp

pytestmark = pytest.mark.cluster


async def run(ioctx: IoCtx, name: str, step: Step) -> dict[str, object]:
    """What the store answers to a step, as the transcript says it."""
    writes = not isinstance(step, Call) or CLASSES[step.class_name][step.method].writes
    try:
        reply = await ioctx.operate(name, WriteOp([step]) if writes else ReadOp([step]))  # type: ignore[list-item]
    except RbdfsError as err:
        return {"result": -err.errno}
    return {"result": 0} if writes else {"result": 0, "output": comparable_output(step, bytes(reply.outputs[0]))}


async def state(ioctx: IoCtx, name: str) -> dict[str, str]:
    """An object as the transcript says it."""
    try:
        content = bytes(await calls.read(ioctx, name, 0, 0))
    except NotFound:
        return {}
    xattrs = (await ioctx.operate(name, ReadOp([GetXattrs()]))).outputs[0]
    return comparable_state(content, xattrs, {key: value async for key, value in calls.omap_items(ioctx, name)})


async def test_an_osd_answers_and_stores_as_the_local_classes_do(ceph_cluster: CephCluster) -> None:
    states: dict[str, dict[str, str]] = {}
    async with open_cluster(CephAddress(ConnectFlags(conf=str(ceph_cluster.conf)))) as cluster:
        ioctx = await cluster.open_pool("data", "calls")
        for number, ((name, step), recorded) in enumerate(zip(CALLS, read_transcript(), strict=True)):
            answer = await run(ioctx, name, step)
            if "output" not in answer:
                after = await state(ioctx, name)
                if changed := changes(states.get(name, {}), after):
                    answer["changes"] = changed
                states[name] = after
            assert answer == recorded, f"call {number}: {name}: {step}"
