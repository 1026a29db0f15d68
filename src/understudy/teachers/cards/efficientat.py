"""Cards of EfficientAT's AudioSet models, by width."""

from understudy.teachers.card import TeacherCard

_RELEASE = "https://github.com/fschmid56/EfficientAT/releases/download/v0.0.1/"

# The digest is of a copy: the release could not be reached to compare, and publishes none.
_MN04_SHA256 = "899a8c6217063f6941793102a2780b3dd788ab11fce468d9cf5f0577c453321c"


def _efficientat(
    name: str,
    dim: int,
    parameters: int,
    macs_10_s: int,
    mean_ap: int,
    sha256: str | None = None,
    size: int | None = None,
) -> TeacherCard:
    weights_file = f"{name}_as_mAP_{mean_ap}.pt"
    return TeacherCard(
        name=name,
        title=f"EfficientAT {name}_as (MobileNet, AudioSet mAP .{mean_ap})",
        version="1",
        licence_code="MIT",
        licence_weights="MIT (F. Schmid 2022; the repository's, none is named for the weights)",
        training_data=("AudioSet", "ImageNet (initialisation)", "PaSST (distilled from)"),
        sample_rate=32000,
        dim=dim,
        window_s=1.92,
        hop_s=0.96,
        min_samples=514,
        parameters=parameters,
        macs_per_s=macs_10_s / 10,
        front_end=(
            "32 kHz; pre-emphasis 0.97, valid; STFT 1024, hop 320, symmetric Hann 800, centred, "
            "reflect; power; 128 Kaldi mel bands 0-15000 Hz, triangles linear in mel; "
            "ln(power + 1e-5); (v + 4.5)/5"
        ),
        policy=(
            "Clips shorter than a window are zero-padded at the end; as whole clips they pass as "
            "they are, from 514 samples on. Windows beyond 10 s: the fewest 10 s pieces that cover "
            "them, averaged. Silence gives a constant that depends on the window's length: mask "
            "it. Embeddings of unlike windows do not compare. bfloat16 moves mn04's by 4 to 11 % "
            "of their rms on real recordings: it is not for this family."
        ),
        citation=(
            "F. Schmid, K. Koutini, G. Widmer: Efficient Large-Scale Audio Tagging via "
            "Transformer-to-CNN Knowledge Distillation, ICASSP 2023 (arXiv:2211.04772); "
            "Low-Complexity Audio Embedding Extractors, EUSIPCO 2023 (arXiv:2303.01879)"
        ),
        weights_file=weights_file,
        url=_RELEASE + weights_file,
        weights_sha256=sha256,
        weights_bytes=size,
    )


EFFICIENTAT = (
    _efficientat("mn01", 96, 123_783, 18_146_304, 298),
    _efficientat("mn02", 192, 324_695, 40_316_544, 378),
    _efficientat("mn04", 384, 983_599, 110_643_072, 432, _MN04_SHA256, 4_066_513),
    _efficientat("mn05", 480, 1_431_239, 159_964_672, 443),
    _efficientat("mn10", 960, 4_876_831, 541_078_208, 471),
    _efficientat("mn20", 1920, 17_909_287, 2_059_375_488, 478),
    _efficientat("mn30", 2880, 39_086_367, 4_554_880_320, 482),
    _efficientat("mn40", 3840, 68_427_303, 8_027_611_904, 484),
)
