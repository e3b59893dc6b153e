"""Child processes of a command."""

from __future__ import annotations

import pytest

from kvroute.router.testing.children import ChildFailed, Children, free_ports


async def test_a_child_that_ends_early_is_told_with_its_last_words() -> None:
    """Waiting for a child that cannot start fails at once, with what it wrote."""
    async with Children() as children:
        child = children.start("mock-engine", "--port", "none")
        with pytest.raises(ChildFailed, match=r"kvroute mock-engine ended with status 2:\n(?s:.*)not a valid integer"):
            await children.answer(["http://127.0.0.1:1/health"])
    assert child.poll() == 2


async def test_children_end_with_the_block() -> None:
    """A stand-in answers while the block lasts, and has ended in peace behind it."""
    (port,) = free_ports(1)
    async with Children() as children:
        child = children.start("mock-engine", "--port", str(port))
        await children.answer([f"http://127.0.0.1:{port}/health"])
        assert child.poll() is None
    assert child.returncode == 0


def test_free_ports_differ() -> None:
    """Ports asked for together are different ones."""
    assert len(set(free_ports(20))) == 20
