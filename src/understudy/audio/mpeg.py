"""MP3 streams that libsndfile would cut short or refuse, mended before it sees them."""

import io
import os
from pathlib import Path

_MPEG1_KBPS = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_MPEG2_KBPS = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_MPEG1_HZ = (44100, 48000, 32000)


def frame_bytes(header: bytes) -> int:
    """Length of the layer III frame that begins with `header`; 0 where none begins."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return 0
    version, bitrate, rate = header[1] >> 3 & 3, header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or bitrate in (0, 15) or rate == 3:
        return 0
    kbps = (_MPEG1_KBPS if version == 3 else _MPEG2_KBPS)[bitrate]
    rate_hz = _MPEG1_HZ[rate] >> (0, 0, 1, 0)[version] >> (2 if version == 0 else 0)
    return (144 if version == 3 else 72) * kbps * 1000 // rate_hz + (header[2] >> 1 & 1)


def repaired(path: str | os.PathLike[str]) -> io.BytesIO | None:
    """An MP3 whose frames no header counts, as it should be handed on; None for what is fine.

    libsndfile guesses the length of such a stream from its size and its first frames, and stops
    there or stumbles over what follows the last one: it loses the end of a file that begins loud,
    and refuses one with a tag or padding at its end. So the junk is cut off, and a stream of
    variable rate is given a header that counts its frames.
    """
    with Path(path).open("rb") as file:
        head = file.read(10)
        start = 0
        if head[:3] == b"ID3" and len(head) == 10:
            start = 10 + sum((byte & 0x7F) << 7 * (3 - i) for i, byte in enumerate(head[6:10]))
        file.seek(start)
        first = file.read(256)
        length = frame_bytes(first[:4])
        if not length or any(tag in first for tag in (b"Xing", b"Info", b"VBRI")):
            return None
        data = first + file.read()
    n_frames, end, bitrates = _walk(data)
    if len(bitrates) == 1:
        return None if end == len(data) else io.BytesIO(data[:end])
    mono, mpeg1 = data[3] >> 6 == 3, data[1] & 8
    side_bytes = (17 if mono else 32) if mpeg1 else (9 if mono else 17)
    header = bytes((0xFF, data[1] | 1, 0x90 | data[2] & 0x0C, data[3]))
    count = b"Xing" + (1).to_bytes(4) + n_frames.to_bytes(4)
    frame = (header + bytes(side_bytes) + count).ljust(frame_bytes(header), b"\0")
    return io.BytesIO(frame + data[:end])


def _walk(data: bytes) -> tuple[int, int, set[int]]:
    """Frames of a stream that begins with one: their number, the last one's end, their bitrates."""
    at = end = n_frames = 0
    bitrates: set[int] = set()

    def length(at: int) -> int:  # of a frame like the first: same version, same sample rate
        same = (data[at + 1] ^ data[1]) & 0xFE == 0 == (data[at + 2] ^ data[2]) & 0x0C
        return frame_bytes(data[at : at + 4]) if same else 0

    while 0 <= at < len(data) - 3:
        step = length(at)
        follower = at + step
        # Bytes that merely look like a frame are common in junk; two in a row are not.
        if step and at > end and (follower > len(data) - 4 or not length(follower)):
            step = 0
        if step:
            n_frames += 1
            bitrates.add(data[at + 2] >> 4)
            at = end = min(follower, len(data))
        else:
            at = data.find(b"\xff", at + 1)
    return n_frames, end, bitrates
