"""An image on the local store against a bytearray. RBDFS_MODEL_EXAMPLES says how many sequences are tried."""

import os
import tempfile
from pathlib import Path

import trio
from hypothesis import HealthCheck, given, settings, strategies as st
from model.image_model import Operation, layouts, run_sequence, sequences

from rbdfs.local.cluster import open_store


async def run_locally(layout: dict[str, int], sequence: list[Operation], seed: int) -> None:
    """One client has the store open, the other one is attached to it."""
    with tempfile.TemporaryDirectory() as path:
        store = Path(path) / "store"
        async with open_store(store, create=True) as one, open_store(store) as other:
            await one.create_pool("data")
            await run_sequence([await one.open_pool("data"), await other.open_pool("data")], layout, sequence, seed)


@settings(
    max_examples=int(os.environ.get("RBDFS_MODEL_EXAMPLES", "40")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(layouts, sequences, st.integers(0, 1000))
def test_image_is_a_bytearray(layout: dict[str, int], sequence: list[Operation], seed: int) -> None:
    trio.run(run_locally, layout, sequence, seed)
