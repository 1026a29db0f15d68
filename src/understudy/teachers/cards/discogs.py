"""Card of DisCogs, the artist model of the Discogs-EffNet family."""

from understudy.teachers.card import TeacherCard

_FOLDER = "https://essentia.upf.edu/models/feature-extractors/discogs-effnet/"
_FILE = "discogs_artist_embeddings-effnet-bs64-1.onnx"

DISCOGS = TeacherCard(
    name="discogs",
    title="Discogs-EffNet, artist embeddings (MTG)",
    version="1",
    licence_code="MIT",
    licence_weights="CC BY-NC-SA 4.0 (MTG, Universitat Pompeu Fabra; proprietary on request)",
    training_data=("Discogs (MTG's own recordings, matched by artist)",),
    sample_rate=16000,
    dim=1280,
    window_s=2.048,
    hop_s=0.992,
    min_samples=512,
    parameters=4_006_972,
    macs_per_s=9 * 92_875_904 / 10,
    front_end=(
        "16 kHz; frames of 512 every 256, the first centred on the clip's first sample, zeros "
        "beyond its ends; symmetric Hann; power; 96 Slaney mel bands of equal area 0-8000 Hz with "
        "Essentia's float32 band edges; log10(1 + 10000 power); patches of 128 frames every 62"
    ),
    policy=(
        "By default Essentia's patches: 1 + floor((F - 128)/62) of the 1 + ceil(samples/256) = F "
        "frames. Where Essentia gives nothing, at F below 128 (2.016 s), the frames are repeated "
        "cyclically. Windows of another length hold the frames inside them, patches averaged; "
        "shorter clips are zero-padded to them. Whole clips beyond 10 s: the fewest 10 s pieces "
        "that cover them, averaged. Silence gives a constant: mask it. The embedding is what the "
        "published graph projects to its 512 outputs; parameters are counted without that "
        "projection. Essentia's examples resample linearly (aliases; 0.6 of the signal's rms on "
        "noisy material), ours does not: 1.6 % of rms from Essentia's best quality. The authors "
        "publish no checksum: the file's is recorded at its first use. With weights='random' the "
        "network is a stand-in."
    ),
    citation=(
        "P. Alonso-Jimenez, X. Serra, D. Bogdanov: Music Representation Learning Based on "
        "Editorial Metadata from Discogs, ISMIR 2022"
    ),
    weights_file=_FILE,
    url=_FOLDER + _FILE,
    weights_bytes=18_621_951,
)
