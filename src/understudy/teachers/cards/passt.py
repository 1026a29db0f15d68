"""Card of PaSST."""

from understudy.teachers.card import TeacherCard

_FILE = "passt-s-f128-p16-s10-ap.476-swa.pt"

# The author publishes no digest; this one is on several independent records of the file.
_SHA256 = "302903fa8c4aee817b11dc982da0b29aaf8d11a3e722420476d0a12c9db70c2c"

PASST = TeacherCard(
    name="passt",
    title="PaSST passt_s_swa_p16_128_ap476 (transformer, AudioSet mAP .476)",
    version="1",
    licence_code="Apache-2.0",
    licence_weights="not stated (published by the authors beside code under Apache-2.0)",
    training_data=("AudioSet", "ImageNet (initialisation)"),
    sample_rate=32000,
    dim=768,
    window_s=0.96,
    hop_s=0.96,
    min_samples=4801,
    parameters=86_153_758,
    macs_per_s=118_929_898_752 / 10,
    front_end=(
        "32 kHz; pre-emphasis 0.97, valid; STFT 1024, hop 320, symmetric Hann 800, centred, "
        "reflect; power; 128 Kaldi mel bands 0-15000 Hz, triangles linear in mel; "
        "ln(power + 1e-5); (v + 4.5)/5"
    ),
    policy=(
        "Clips shorter than a window are zero-padded at the end; as whole clips they pass as they "
        "are, from 4801 samples (0.15 s) on. Windows beyond 10 s, the reach of its position "
        "embeddings: the fewest 10 s pieces that cover them, averaged; as a HEAR scene, 10 s "
        "windows every 2.5 s over the mirrored clip, averaged. Silence gives a constant that "
        "depends on the window's length: mask it. bfloat16 moves "
        "embeddings by 1 % of their rms, 3 % at most (random weights). Both heads are counted."
    ),
    citation=(
        "K. Koutini, J. Schlueter, H. Eghbal-zadeh, G. Widmer: Efficient Training of Audio "
        "Transformers with Patchout, Interspeech 2022 (arXiv:2110.05069)"
    ),
    weights_file=_FILE,
    url=f"https://github.com/kkoutini/PaSST/releases/download/v0.0.1-audioset/{_FILE}",
    weights_sha256=_SHA256,
    weights_bytes=344_665_734,
)
