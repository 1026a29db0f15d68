"""Card of `mule`."""

from understudy.teachers.card import TeacherCard

MULE = TeacherCard(
    name="mule",
    title="MULE (SF-NFNet-F0, contrastive, MusicSet)",
    version="1",
    licence_code="MIT (own implementation; upstream's is GPL-3.0 and not used)",
    licence_weights="CC BY-NC 4.0 (non-commercial use only)",
    training_data=("MusicSet (Pandora; music without labels)",),
    sample_rate=16000,
    dim=1728,
    window_s=3.0,
    hop_s=2.0,
    min_samples=400,
    chunk_s=3.015,
    parameters=62_345_742,
    macs_per_s=4_275_097_920 / 3.015,
    resampler="kaiser_best",
    front_end=(
        "16 kHz; half the sum of the source's channels (source_channels, 1 unless set); STFT 2048, "
        "hop 160, periodic Hann 400, frames inside the window (at the clip's ends, on the default "
        "timeline, of the mirrored clip); power; 96 HTK mel bands 0-8000 Hz of unit L2 norm; "
        "log10(1 + 10000 power); minus mean, over deviation (at least 0.01) of the window"
    ),
    policy=(
        "On the default timeline windows are MULE's slices: 300 frames about frame 200, 400, ..., "
        "the last moved to lie inside the clip; so the first half second is heard only in clips "
        "below 3.5 s. MULE itself leaves out the slices about 80 s, 160 s, ...; here they are "
        "kept. Clips shorter than 47840 samples (2.99 s), which it refuses or cuts wrongly, are "
        "zero-padded at the end. Windows of other lengths pass as they are up to 3.015 s; beyond, "
        "and as whole clips: the fewest such pieces that cover them, averaged. Silence gives a "
        "constant, finite vector: mask it. With precision bfloat16 embeddings of noise move by "
        "0.5 % of their rms (random weights, CPU), with compile by 3e-7."
    ),
    citation=(
        "M. C. McCallum, F. Korzeniowski, S. Oramas, F. Gouyon, A. F. Ehmann: Supervised and "
        "Unsupervised Learning of Audio Representations for Music Understanding, ISMIR 2022 "
        "(arXiv:2210.03799)"
    ),
    weights_file="mule-model.keras",
    url=(
        "https://github.com/PandoraMedia/music-audio-representations/raw/v1.1.2/"
        "supporting_data/model/model.keras"
    ),
    weights_sha256="1da111d619bac0d422e41f153cbfb903f7ec3c5d3b2768f5d68f04452ed18180",
    weights_bytes=251_054_764,
)
