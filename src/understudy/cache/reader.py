"""Reads stores by row, without zarr-python where the layout is the schema's own.

A shard's index is parsed once; clips are then copied from a memory map into the caller's buffer.
zarr-python reads the same numbers, some hundred times slower for random rows.
"""

import mmap
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from understudy import schema
from understudy.cache import layout
from understudy.cache.store import Store
from understudy.errors import CacheError

Rows = Sequence[int] | np.ndarray
Frames = tuple[int | Rows, int]


class CacheReader:
    """A store open for reading.

    Files are opened at first use, so a reader may be pickled and survives fork and spawn. What
    status and n_frames say is read once; open a new reader to see what an extraction added since.

    Args:
        path: The store's folder, see `find`.

    Raises:
        CacheError: No store, one of a newer schema, or metadata that break the schema.
    """

    def __init__(self, path: Path | str) -> None:
        self.store = Store.open(path)
        self.path = self.store.path
        self._reset()

    def _reset(self) -> None:
        self._maps: dict[int, tuple[mmap.mmap, memoryview]] = {}
        self._offset: np.ndarray | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"store": self.store, "path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def __repr__(self) -> str:
        return f"CacheReader({str(self.path)!r})"

    @property
    def kind(self) -> str:
        """ "embedding" or "audio"."""
        return self.store.kind.name

    @property
    def name(self) -> str:
        """The teacher's name, or "audio"."""
        return self.attributes["name"]

    @property
    def attributes(self) -> dict[str, Any]:
        """All attributes of the store, named and explained in cache_schema.yaml."""
        return self.store.attributes

    @property
    def identity(self) -> dict[str, Any]:
        """The attributes that tell this store from others."""
        names = schema.load().identity_names(self.kind)
        return {key: self.attributes[key] for key in names if key in self.attributes}

    @property
    def timing(self) -> dict[str, Any]:
        """window_s and hop_s, as `understudy.timing.frame_centres` takes them."""
        return {key: self.attributes[key] for key in ("window_s", "hop_s")}

    @property
    def n_clips(self) -> int:
        """Rows of the store."""
        return self.store.sizes["n_clips"]

    @property
    def max_frames(self) -> int:
        """Frames (audio: samples) of a whole row, padding included."""
        return self.store.sizes["max_frames"]

    @property
    def dim(self) -> int:
        """Channels of one embedding vector; 1 for audio."""
        return self.store.sizes["dim"]

    @property
    def dtype(self) -> np.dtype:
        """Stored dtype of the data."""
        return self.store.dtype(self.store.kind.data)

    @cached_property
    def status(self) -> np.ndarray:
        """uint8 (clip,), codes of the schema."""
        return self.store.read("status")

    @cached_property
    def n_frames(self) -> np.ndarray:
        """uint32 (clip,), valid frames (audio: samples)."""
        return self.store.read("n_frames")

    @cached_property
    def _levels(self) -> np.ndarray:
        return self.store.read("level_db")

    def level_db(self, rows: Rows) -> np.ndarray:
        """float32 (batch, frame) level of each frame's window in dBFS; NaN where there is none."""
        return self._levels[self._checked_rows(rows)].astype(np.float32)

    def gather(
        self,
        rows: Rows,
        out: np.ndarray | None = None,
        frames: Frames | None = None,
        missing: Literal["raise", "nan"] = "raise",
    ) -> tuple[np.ndarray, np.ndarray]:
        """Reads clips, or the same number of frames of each.

        Args:
            rows: (batch,) rows of the index, in any order, repeats allowed.
            out: C-contiguous buffer for the data, of the result's shape and the stored dtype. A
                new one for each batch costs several times the read itself.
            frames: (start, count): frames (audio: samples) [start, start + count) of each clip;
                start is a number or (batch,) numbers. None reads whole rows.
            missing: "nan" fills rows that are not ok (audio: with 0) and gives them no frames.

        Returns:
            data: (batch, frame, channel), audio (batch, sample), in the stored dtype; beyond the
                clip's frames NaN (audio: 0).
            n_frames: int64 (batch,) valid frames in `data`.

        Raises:
            CacheError: A row outside the store, one that is not ok (unless missing="nan"), or
                damaged data.
        """
        if missing not in ("raise", "nan"):
            raise CacheError(f"missing is {missing!r}; wanted 'raise' or 'nan'")
        index = self._checked_rows(rows)
        start, count = self._checked_frames(frames, len(index))
        row_shape = (count, *self.store.arrays[self.store.kind.data]["shape"][2:])
        if out is None:
            out = np.empty((len(index), *row_shape), self.dtype)
        elif out.shape != (len(index), *row_shape) or out.dtype != self.dtype:
            raise CacheError(
                f"out is {out.dtype} {out.shape}, wanted {self.dtype} {(len(index), *row_shape)}"
            )
        elif not out.flags.c_contiguous:
            raise CacheError("out is not C-contiguous")
        n_frames = self.n_frames[index].astype(np.int64)
        take = np.arange(len(index))
        ok = self.status[index] == schema.load().code("ok")
        if not ok.all():
            if missing == "raise":
                raise CacheError(self._not_ok(index[~ok]))
            out[~ok] = self.store.data.fill_value
            n_frames[~ok] = 0
            take = take[ok]
        if frames is not None:
            n_frames = np.clip(n_frames - start, 0, count)
        if len(take):
            copy = self._copy if self.store.kind.data in self.store.plain else self._copy_by_zarr
            copy(index[take], take, out, start[take], count)
        return out, n_frames

    def _copy(
        self, rows: np.ndarray, to: np.ndarray, out: np.ndarray, start: np.ndarray, count: int
    ) -> None:
        """Copies frames [start, start + count) of `rows` to positions `to` of `out`."""
        offset, shard = self._locate(rows)
        if (absent := offset < 0).any():
            self._fill_absent(rows[absent], to[absent], out)
            rows, to, offset, shard, start = (
                part[~absent] for part in (rows, to, offset, shard, start)
            )
        order = np.lexsort((offset, shard))
        frame_bytes = out.itemsize * (out.shape[2] if out.ndim == 3 else 1)
        whole = count == self.max_frames
        if whole or self.store.kind.check_parts:
            self._check_first_touch(rows[order], shard[order], offset[order])
        row_bytes = count * frame_bytes
        target = out.reshape(-1).view(np.uint8).data
        begin = offset + start * frame_bytes
        length = np.clip(self.max_frames - start, 0, count) * frame_bytes
        maps = self._maps
        for k, at, into, size in zip(
            shard[order].tolist(),
            begin[order].tolist(),
            (to[order] * row_bytes).tolist(),
            length[order].tolist(),
            strict=True,
        ):
            target[into : into + size] = maps[k][1][at : at + size]
        if not whole:
            self._pad(out, to, self.max_frames - start, count)

    def _copy_by_zarr(
        self, rows: np.ndarray, to: np.ndarray, out: np.ndarray, start: np.ndarray, count: int
    ) -> None:
        array = self._foreign
        for row, into, first in zip(rows.tolist(), to.tolist(), start.tolist(), strict=True):
            try:
                part = array[row, first : first + count]
            except ValueError as error:  # what zarr raises for a failed checksum
                raise CacheError(f"{self.path}: {self._clip(row)}: {error}") from None
            out[into, : len(part)] = part
        self._pad(out, to, self.max_frames - start, count)

    @cached_property
    def _foreign(self) -> Any:
        return self.store.open_zarr(self.store.kind.data)

    def _pad(self, out: np.ndarray, to: np.ndarray, left: np.ndarray, count: int) -> None:
        for into, n in zip(to.tolist(), left.tolist(), strict=True):
            if n < count:
                out[into, max(n, 0) :] = self.store.data.fill_value

    def _locate(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Byte offset of each row in its shard (-1: absent) and the shard, opened."""
        size = self.store.sizes["clips_per_shard"]
        if self._offset is None:
            self._touched = np.zeros(self.n_clips, bool)
            self._offset = np.empty(self.n_clips, np.int64)
        shard = rows // size
        for k in set(shard.tolist()) - self._maps.keys():
            self._open_shard(k, self._offset)
        return self._offset[rows], shard

    def _open_shard(self, shard: int, offsets: np.ndarray) -> None:
        path = self.store.chunk_path(self.store.kind.data, shard)
        rows = self.store.rows(shard)
        try:
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_size == 0:
                    raise CacheError(f"{path}: truncated (0 bytes)")
                view = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        except OSError as error:
            raise CacheError(
                f"cannot read {path}: {error.strerror or error}; "
                f"it holds rows {rows.start} to {rows.stop - 1}; run `understudy cache verify`"
            ) from None
        offset, length = layout.decode_footer(view, self.store.sizes["clips_per_shard"], path)
        if np.any(length[offset >= 0] != self._clip_bytes + layout.CRC_BYTES):
            raise CacheError(f"{path}: its index names chunks of a wrong size")
        offsets[rows.start : rows.stop] = offset[: len(rows)]
        self._maps[shard] = view, memoryview(view)

    @cached_property
    def _clip_bytes(self) -> int:
        return self.max_frames * self.dim * self.dtype.itemsize

    @cached_property
    def _exceeds_memory(self) -> bool:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return self.n_clips * self._clip_bytes > memory // 2

    def _check_first_touch(self, rows: np.ndarray, shard: np.ndarray, offset: np.ndarray) -> None:
        """Asks for rows not read before all at once, then checks them."""
        fresh = ~self._touched[rows]
        if not fresh.any() and not self._exceeds_memory:
            return
        ask = np.ones_like(fresh) if self._exceeds_memory else fresh
        size = self._clip_bytes + layout.CRC_BYTES
        for k, at in zip(shard[ask].tolist(), offset[ask].tolist(), strict=True):
            page = at - at % mmap.PAGESIZE
            self._maps[k][0].madvise(mmap.MADV_WILLNEED, page, at - page + size)
        for row, k, at in zip(
            rows[fresh].tolist(), shard[fresh].tolist(), offset[fresh].tolist(), strict=True
        ):
            try:
                layout.without_crc(self._maps[k][1][at : at + size], self.path)
            except CacheError as error:
                raise CacheError(
                    f"{error} in shard {k}, {self._clip(row)}; run `understudy cache verify`"
                ) from None
            self._touched[row] = True

    def _fill_absent(self, rows: np.ndarray, to: np.ndarray, out: np.ndarray) -> None:
        fill = self.store.data.fill_value
        if np.isnan(fill):
            raise CacheError(f"{self.path}: {self._clip(int(rows[0]))} is ok but has no data")
        out[to] = fill

    def _checked_rows(self, rows: Rows) -> np.ndarray:
        index = np.asarray(rows)
        if index.ndim != 1 or (index.size and index.dtype.kind not in "iu"):
            raise CacheError(f"rows: wanted whole numbers (batch,), found {index.dtype} array")
        index = index.astype(np.int64)
        if index.size and (index.min() < 0 or index.max() >= self.n_clips):
            bad = index[(index < 0) | (index >= self.n_clips)][0]
            raise CacheError(f"{self.path}: row {bad} is outside the store's {self.n_clips} rows")
        return index

    def _checked_frames(self, frames: Frames | None, batch: int) -> tuple[np.ndarray, int]:
        if frames is None:
            return np.zeros(batch, np.int64), self.max_frames
        start, count = np.asarray(frames[0]), int(frames[1])
        if start.dtype.kind not in "iu" or start.shape not in ((), (batch,)):
            raise CacheError(f"frames: wanted a start or ({batch},) starts, found {frames[0]!r}")
        if count < 1 or (start < 0).any():
            raise CacheError(f"frames: wanted start >= 0 and count >= 1, found {frames!r}")
        return np.broadcast_to(start.astype(np.int64), (batch,)), count

    def _not_ok(self, rows: np.ndarray) -> str:
        contract = schema.load()
        code = int(self.status[rows[0]])
        status = contract.statuses.get(code)
        advice = f" ({status.advice})" if status and status.advice else ""
        more = f"; so are {len(rows) - 1} more rows" if len(rows) > 1 else ""
        return (
            f"{self.path}: {self._clip(int(rows[0]))} is {contract.status_name(code)}"
            f"{advice}{more}; missing='nan' reads on"
        )

    def _clip(self, row: int) -> str:
        return self.store.clip_names([row])[0]
