"""Batches: every image once an epoch, resumed anywhere, and gathered ahead without any difference."""

from __future__ import annotations

import gc
import threading
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cbs.data import ahead, sampler
from cbs.data.sampler import Sampler

CPU = torch.device("cpu")


def numbered(n: int, labels: bool = True, seed: int = 0) -> Sampler:
    """Image i is of 2x1 pixels i // 256 and i % 256; its label is 7 i."""
    i = torch.arange(n)
    images = torch.stack([i // 256, i % 256], 1).to(torch.uint8).view(n, 1, 2, 1)
    return Sampler(images, seed, CPU, 7 * i if labels else None)


@pytest.fixture
def always_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "_LARGE_BYTES", 0)


def held(images: torch.Tensor) -> list[int]:
    """The numbers of the images of a batch."""
    high, low = ((images + 1) * 127.5).round().long().flatten(1).unbind(1)
    return (256 * high + low).tolist()


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 5))
def test_every_epoch_sees_each_image_once(n: int, b: int, seed: int) -> None:
    drawn = numbered(n, seed=seed)
    indices = torch.cat([drawn.indices(b) for _ in range(-(-3 * n // b))])
    assert drawn.consumed == len(indices)
    for epoch in range(3):
        assert Counter(indices[epoch * n : (epoch + 1) * n].tolist()) == Counter(range(n))


@given(st.integers(1, 30), st.lists(st.integers(1, 20), min_size=1, max_size=8), st.integers(0, 100))
def test_sampling_resumes_anywhere_whatever_the_batches(n: int, sizes: list[int], start: int) -> None:
    whole = numbered(n)
    stream = whole.indices(start + sum(sizes))
    resumed = numbered(n)
    resumed.seek(start)
    assert torch.equal(torch.cat([resumed.indices(b) for b in sizes]), stream[start:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batches_are_images_in_minus_one_to_one(dtype: torch.dtype) -> None:
    """To the last bit as the records of earlier versions were made."""
    images = torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1)
    torch.set_default_dtype(dtype)
    try:
        ((drawn, labels),) = Sampler(images, 0, CPU).draw(256, [slice(256)])
    finally:
        torch.set_default_dtype(torch.float32)
    assert drawn.dtype == dtype
    assert labels is None
    assert torch.equal(drawn.flatten().sort().values, images.flatten().to(dtype).mul_(1 / 127.5).sub_(1.0))
    assert (drawn.min(), drawn.max()) == (-1, 1)


@st.composite
def cuts(draw: st.DrawFn, b: int) -> list[slice]:
    """Parts of a batch of b, in any number and of any size, as micro-batches and ranks cut it."""
    edges = sorted(draw(st.lists(st.integers(0, b), min_size=2, max_size=5, unique=True)))
    return [slice(low, high) for low, high in pairwise(edges)]


@pytest.mark.parametrize("large", [0, 2**30])
@given(st.data())
def test_parts_are_cut_from_the_same_batch_with_its_labels(large: int, data: st.DataObject) -> None:
    n, b = data.draw(st.integers(1, 600)), data.draw(st.integers(1, 40))
    parts = data.draw(cuts(b))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler, "_LARGE_BYTES", large)
        whole, cut = numbered(n), numbered(n)
        for _ in range(4):
            indices = whole.indices(b)
            batches = cut.draw(b, parts)
            assert cut.consumed == whole.consumed
            for part, (images, labels) in zip(parts, batches, strict=True):
                assert held(images) == indices[part].tolist()
                assert labels is not None
                assert torch.equal(labels, 7 * indices[part])


@given(st.data())
def test_gathering_ahead_changes_nothing(data: st.DataObject) -> None:
    """Whatever is asked for: other batches, other parts, other places; and `consumed` counts what was drawn only."""
    n, with_labels = data.draw(st.integers(1, 60)), data.draw(st.booleans())
    direct = numbered(n, with_labels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler, "_LARGE_BYTES", 0)
        early = numbered(n, with_labels)
    assert (direct._ahead, early._ahead is None) == (None, False)
    for _ in range(data.draw(st.integers(1, 8))):
        if data.draw(st.integers(0, 3)) == 0:
            where = data.draw(st.integers(0, 200))
            direct.seek(where)
            early.seek(where)
        b = data.draw(st.sampled_from([1, 2, 17]))
        parts = [slice(b)] if data.draw(st.booleans()) else [slice(0, b // 2), slice(b // 2, b)]
        for ours, theirs in zip(early.draw(b, parts), direct.draw(b, parts), strict=True):
            assert torch.equal(ours.images, theirs.images)
            assert (ours.labels is None) == (theirs.labels is None) == (not with_labels)
            assert ours.labels is None or torch.equal(ours.labels, theirs.labels)  # type: ignore[arg-type]
        assert early.consumed == direct.consumed


def test_the_next_batch_is_gathered_while_this_one_is_worked_on(always_ahead: None) -> None:
    drawn = numbered(50)
    asked = []
    gather = drawn._ahead._gather  # type: ignore[union-attr]
    drawn._ahead._gather = lambda *request: asked.append((request, threading.current_thread())) or gather(*request)  # type: ignore[union-attr,method-assign]
    drawn.draw(4, [slice(4)])
    for _ in range(1000):
        if len(asked) == 2:
            break
        time.sleep(0.01)
    assert [request[:2] for request, _ in asked] == [(0, 4), (4, 4)]
    assert threading.main_thread() not in [thread for _, thread in asked]
    drawn.draw(4, [slice(4)])
    assert [request[:2] for request, _ in asked][:2] == [(0, 4), (4, 4)]
    assert drawn.consumed == 8


def test_what_goes_wrong_in_the_thread_reaches_the_caller(always_ahead: None) -> None:
    images = torch.zeros(9, 1, 2, 1, dtype=torch.uint8)
    drawn = Sampler(images, 0, CPU, torch.zeros(1, dtype=torch.int64))
    for _ in range(2):
        with pytest.raises((IndexError, RuntimeError), match="out of range"):
            drawn.draw(9, [slice(9)])
        assert drawn.consumed == 0


def test_the_thread_ends_with_its_sampler(always_ahead: None) -> None:
    drawn = numbered(50)
    drawn.draw(4, [slice(4)])
    (thread,) = drawn._ahead._thread._threads  # type: ignore[union-attr]
    assert thread.is_alive()
    del drawn
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


def test_rows_are_announced_page_by_page_and_may_lie_anywhere() -> None:
    """Advice on memory is refused where it isn't of whole pages; here it must be taken."""
    images = torch.zeros(100, 3, 37, 41, dtype=torch.uint8)
    seen: list[tuple[int, int, int]] = []
    advise = ahead._madvise
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ahead, "_madvise", lambda *what: seen.append(what) or advise(*what))
        ahead.expect(images, torch.tensor([5, 99, 0]))
    assert [advise(*what) for what in seen] == [0, 0, 0]
    for (start, length, _), row in zip(seen, (5, 99, 0), strict=True):
        first = images[row].data_ptr()
        assert start <= first < start + 4096
        assert start + length == first + 3 * 37 * 41


class Recorded:
    """CUDA's streams and events as far as an upload touches them: a copy is over once its event was waited for."""

    def __init__(self, *_: Any) -> None:
        self.waited = 0

    def record(self, _: Any) -> None:
        pass

    def synchronize(self) -> None:
        self.waited += 1

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def upload(monkeypatch: pytest.MonkeyPatch) -> Iterator[ahead.Upload]:
    """An upload whose device is the CPU: a copy is taken only once the buffer was waited for."""
    empty = torch.empty
    monkeypatch.setattr(torch.cuda, "Stream", Recorded)
    monkeypatch.setattr(torch.cuda, "Event", Recorded)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(torch, "empty", lambda *size, pin_memory=False, **rest: empty(*size, **rest))
    return ahead.Upload(CPU)


@pytest.mark.parametrize("with_labels", [True, False])
def test_uploads_take_turns_and_wait_before_a_buffer_is_written_again(upload: ahead.Upload, with_labels: bool) -> None:
    images = torch.randint(0, 256, (50, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(50) * 10**12 if with_labels else None
    sent = []
    for n in (3, 7, 7, 2, 9):  # on a CPU, what is sent is the buffer itself
        rows = torch.arange(n) * 5
        before = list(upload._copied)
        found = upload(images, labels, rows)
        assert before[upload._turn].waited == 1
        assert torch.equal(found.pixels, images[rows])
        assert found.labels is None if labels is None else torch.equal(found.labels, labels[rows])
        sent.append(found.pixels.untyped_storage().data_ptr())
    assert all(one != following for one, following in pairwise(sent))
    assert sent[1] == sent[3]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gets_what_lies_on_the_host() -> None:
    i = torch.arange(5000)
    images = torch.stack([i // 256, i % 256], 1).to(torch.uint8).view(-1, 1, 2, 1).repeat(1, 3, 32, 64)
    device = torch.device("cuda")
    host, there = Sampler(images, 0, device, 7 * i), Sampler(images.to(device), 0, device, 7 * i)
    busy = torch.randn(2000, 2000, device=device)
    for b in [64] * 50 + [700] * 10 + [3] * 10:
        parts = [slice(0, b // 2), slice(b // 2, b)]
        for ours, theirs in zip(host.draw(b, parts), there.draw(b, parts), strict=True):
            assert torch.equal(ours.images, theirs.images)
            assert torch.equal(ours.labels, theirs.labels)  # type: ignore[arg-type]
        busy = busy @ busy / 2000
    assert host.consumed == there.consumed
