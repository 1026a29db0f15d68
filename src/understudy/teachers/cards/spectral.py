"""Card of `spectral`."""

from understudy.teachers.card import TeacherCard

SPECTRAL = TeacherCard(
    name="spectral",
    title="Log-mel, MFCC, chroma and spectral shape statistics",
    version="1",
    licence_code="MIT",
    licence_weights="none (no weights)",
    training_data=(),
    sample_rate=16000,
    dim=218,
    window_s=1.0,
    hop_s=1.0,
    min_samples=2048,
    parameters=0,
    macs_per_s=0.0,
    front_end=(
        "16 kHz; frames of 2048 fully inside the window, hop 320, periodic Hann; amplitude over "
        "half the window's sum; 64 HTK mel bands 0-8000 Hz; 20 MFCC; 12 chroma 130-4000 Hz; "
        "6 contrast bands 100-8000 Hz; dB of power + 1e-10, as dB/50 + 1; mean and deviation"
    ),
    policy=(
        "Clips shorter than a window are zero-padded at the end. Windows beyond 10 s: the fewest "
        "10 s pieces that cover them, averaged. Silence gives a constant, finite vector."
    ),
    citation="understudy: hand-made features, no publication.",
)
