"""An image on a cluster against a bytearray, with librbd as the judge of what the mount left behind."""

import os
from functools import partial
from typing import Any

import calls
import pytest
import trio
from ceph_cluster import CephCluster
from hypothesis import HealthCheck, Phase, given, settings, strategies as st
from interop.librbd import check_object_map, exported, our_pool
from model.image_model import Operation, Run, existing_objects, layouts, run_sequence, sequences

from rbdfs.image.features import Feature
from rbdfs.image.image import Image

pytestmark = pytest.mark.cluster


class JudgedRun(Run):
    """Whenever all is compared, librbd compares, too."""

    def __init__(self, ceph: CephCluster, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.ceph = ceph

    async def do_check(self, image: Image) -> None:
        await super().do_check(image)
        contents = {"data/vm": bytes(self.model.content)}
        contents |= {f"data/vm@{name}": content for name, content in self.model.snaps.items()}
        for spec, content in contents.items():
            assert await exported(self.ceph, spec) == content
            if image.header.features & Feature.OBJECT_MAP:
                await check_object_map(self.ceph, spec)


async def run_on(ceph: CephCluster, layout: dict[str, int], sequence: list[Operation], seed: int) -> None:
    async with our_pool(ceph) as one, our_pool(ceph) as other:
        for name in await existing_objects(one):
            await calls.remove(one, name)
        await run_sequence([one, other], layout, sequence, seed, make_run=partial(JudgedRun, ceph))


def test_image_is_a_bytearray(ceph_cluster: CephCluster) -> None:
    @settings(
        max_examples=int(os.environ.get("RBDFS_MODEL_EXAMPLES", "5")),
        deadline=None,
        phases=[Phase.generate],  # a smaller sequence may fail for want of time
        suppress_health_check=list(HealthCheck),
    )
    @given(layouts, sequences, st.integers(0, 1000))
    def run(layout: dict[str, int], sequence: list[Operation], seed: int) -> None:
        trio.run(run_on, ceph_cluster, layout, sequence, seed)

    run()
