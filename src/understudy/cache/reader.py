"""Reads stores by row, without zarr-python where the layout is the schema's own.

A shard's index is parsed once; clips are then copied from a memory map into the caller's buffer.
zarr-python reads the same numbers, some hundred times slower for random rows.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np

from understudy import schema
from understudy.cache.places import Place
from understudy.cache.shards import Shards
from understudy.cache.spans import SpanShards
from understudy.cache.store import Store
from understudy.errors import CacheError

Rows = Sequence[int] | np.ndarray
Frames = tuple[int | Rows, int]


class CacheReader:
    """A store open for reading.

    Files are opened at first use, so a reader may be pickled and survives fork and spawn. What
    status and n_frames say is read once; open a new reader to see what an extraction added since.

    Args:
        path: The store's folder, see `find`, or its URL (s3://, gs://, file://).

    Raises:
        CacheError: No store, one of a newer schema, or metadata that break the schema.
    """

    def __init__(self, path: Place | str) -> None:
        self.store = Store.open(path)
        self.path = self.store.path
        self._reset()

    def _reset(self) -> None:
        data = self.store.kind.data
        self._dtype = self.store.dtype(data)
        shape = self.store.arrays[data]["shape"]
        self._frame_shape = tuple(shape[1:] if self.store.concat else shape[2:])
        # Rows that are ok and whose shard is open; those among them that have been checked.
        self._located = np.zeros(self.n_clips, bool)
        self._checked = np.zeros(self.n_clips, bool)

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
        """window_s, hop_s and grid, as `understudy.timing.frame_centres` takes them; on the grid
        "stored", `centre_s` holds the instants instead."""
        names = ("window_s", "hop_s", "grid")
        return {key: self.attributes[key] for key in names if key in self.attributes}

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
        return self._dtype

    @cached_property
    def status(self) -> np.ndarray:
        """uint8 (clip,), codes of the schema."""
        return self.store.read("status")

    @cached_property
    def n_frames(self) -> np.ndarray:
        """uint32 (clip,), valid frames (audio: samples)."""
        return self.store.read("n_frames")

    @cached_property
    def _valid(self) -> np.ndarray:
        """int64 (clip,) frames of rows that are ok, 0 of others."""
        ok = self.status == schema.load().code("ok")
        return np.where(ok, self.n_frames, 0).astype(np.int64)

    @cached_property
    def _shards(self) -> Shards:
        if self.store.concat:
            return SpanShards(self.store, self._offset, self._valid)
        return Shards(self.store)

    @cached_property
    def _offset(self) -> np.ndarray:
        """uint64 (clip,) place of the first frame along the data array, in the layout concat."""
        return self.store.read("offset")

    @cached_property
    def _levels(self) -> np.ndarray:
        return self.store.read("level_db")

    def level_db(self, rows: Rows) -> np.ndarray:
        """float32 (batch, frame) level of each frame's window in dBFS; NaN where there is none."""
        return self._per_frame(self._levels, rows).astype(np.float32)

    def _per_frame(self, values: np.ndarray, rows: Rows) -> np.ndarray:
        """(batch, frame) of an array that has one value per frame, NaN beyond the last."""
        index = self._checked_rows(rows)
        if not self.store.concat:
            return values[index]
        time = np.arange(self.max_frames)
        inside = time < self._valid[index, None]
        at = np.where(inside, self._offset[index, None].astype(np.int64) + time, 0)
        return np.where(inside, values[at], np.nan).astype(values.dtype)

    @cached_property
    def _centres(self) -> np.ndarray:
        return self.store.read("centre_s")

    def centre_s(self, rows: Rows) -> np.ndarray:
        """float64 (batch, frame) instant of each frame, NaN beyond the last: of grid "stored" only.

        Other stores' instants are `understudy.timing.frame_centres` of `timing`.
        """
        if "centre_s" not in self.store.kind.arrays:
            raise CacheError(f"{self.path}: its frames' instants follow from window_s and hop_s")
        return self._per_frame(self._centres, rows)

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
        out = self._checked_out(out, len(index), count)
        n_frames = self._valid[index]
        if not len(index):
            return out, n_frames
        take = None
        checked = start is None or self.store.kind.check_parts
        ready = self._checked if checked else self._located
        if not ready[index].all():
            take = self._resolve(index, out, missing, checked)
            ready[index[take]] = True
        if start is not None:
            n_frames = np.minimum(np.maximum(n_frames - start, 0), count)
        if take is None or len(take):
            self._copy(index, out, start, take)
        return out, n_frames

    def _resolve(self, index: np.ndarray, out: np.ndarray, missing: str, check: bool) -> np.ndarray:
        """Fills what has no data, checks what has; returns the positions left to copy."""
        fill = self.store.data.fill_value
        ok = self.status[index] == schema.load().code("ok")
        if not ok.all():
            if missing == "raise":
                raise CacheError(self._not_ok(index[~ok]))
            out[~ok] = fill
        take = np.flatnonzero(ok)
        if self._foreign is not None:
            return take
        present = self._shards.present(index[take])
        if not present.all():
            if np.isnan(fill):
                clip = self._clip(int(index[take[~present]][0]))
                raise CacheError(f"{self.path}: {clip} is ok but has no data")
            out[take[~present]] = fill
            take = take[present]
        if check:
            self._shards.check(index[take])
        return take

    def _copy(
        self, index: np.ndarray, out: np.ndarray, start: np.ndarray | None, take: np.ndarray | None
    ) -> None:
        """Copies the rows at positions `take` (None: all) of the batch into `out`."""
        to = np.arange(len(index)) if take is None else take
        rows = index if take is None else index[take]
        if self._foreign is not None:
            return self._copy_foreign(rows, to, out, start)
        row_bytes = out.nbytes // len(out)
        target = out.reshape(-1).view(np.uint8).data
        if start is None and not self.store.concat:
            return self._shards.copy_whole(rows, to * row_bytes, target)
        count = out.shape[1]
        frame_bytes = row_bytes // count
        start = np.zeros(len(rows), np.int64) if start is None else start[to]
        left = np.minimum(np.maximum(self._stored(rows) - start, 0), count)
        self._shards.copy(rows, to * row_bytes, start * frame_bytes, left * frame_bytes, target)
        self._pad(out, to, left)

    def _stored(self, rows: np.ndarray) -> Any:
        """Frames that the store holds of each row, padding included."""
        return self._valid[rows] if self.store.concat else self.max_frames

    def _copy_foreign(
        self, rows: np.ndarray, to: np.ndarray, out: np.ndarray, start: np.ndarray | None
    ) -> None:
        count = out.shape[1]
        first = np.zeros(len(out), np.int64) if start is None else start
        left = np.minimum(np.maximum(self._stored(rows) - first[to], 0), count)
        for row, into, begin, n in zip(
            rows.tolist(), to.tolist(), first[to].tolist(), left.tolist(), strict=True
        ):
            try:
                if self.store.concat:
                    begin += int(self._offset[row])
                    part = self._foreign[begin : begin + n]
                else:
                    part = self._foreign[row, begin : begin + n]
            except ValueError as error:  # what zarr raises for a failed checksum
                raise CacheError(f"{self.path}: {self._clip(row)}: {error}") from None
            out[into, : len(part)] = part
        self._pad(out, to, left)

    def _pad(self, out: np.ndarray, to: np.ndarray, left: np.ndarray) -> None:
        """Fills what lies beyond the store's last frame."""
        short = left < out.shape[1]
        for into, n in zip(to[short].tolist(), left[short].tolist(), strict=True):
            out[into, n:] = self.store.data.fill_value

    @cached_property
    def _foreign(self) -> Any:
        """The data array through zarr-python; None for the schema's own layout."""
        name = self.store.kind.data
        return None if name in self.store.plain else self.store.open_zarr(name)

    def _checked_rows(self, rows: Rows) -> np.ndarray:
        index = np.asarray(rows)
        if index.ndim != 1 or (index.size and index.dtype.kind not in "iu"):
            raise CacheError(
                f"rows: wanted whole numbers (batch,), found {index.dtype} {index.shape}"
            )
        index = index.astype(np.int64, copy=False)
        # As unsigned numbers, negative ones are the largest.
        if index.size and int(index.view(np.uint64).max()) >= self.n_clips:
            bad = index[(index < 0) | (index >= self.n_clips)][0]
            raise CacheError(f"{self.path}: row {bad} is outside the store's {self.n_clips} rows")
        return index

    def _checked_frames(self, frames: Frames | None, batch: int) -> tuple[np.ndarray | None, int]:
        if frames is None:
            return None, self.max_frames
        start, count = np.asarray(frames[0]), int(frames[1])
        if start.dtype.kind not in "iu" or start.shape not in ((), (batch,)):
            raise CacheError(f"frames: wanted a start or ({batch},) starts, found {frames[0]!r}")
        if count < 1 or (start < 0).any():
            raise CacheError(f"frames: wanted start >= 0 and count >= 1, found {frames!r}")
        return np.broadcast_to(start.astype(np.int64), (batch,)), count

    def _checked_out(self, out: np.ndarray | None, batch: int, count: int) -> np.ndarray:
        shape = (batch, count, *self._frame_shape)
        if out is None:
            return np.empty(shape, self._dtype)
        if out.shape != shape or out.dtype != self._dtype:
            raise CacheError(f"out is {out.dtype} {out.shape}, wanted {self._dtype} {shape}")
        if not out.flags.c_contiguous:
            raise CacheError("out is not C-contiguous")
        return out

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
