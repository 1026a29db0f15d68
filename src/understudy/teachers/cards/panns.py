"""Card of PANNs' CNN14."""

from understudy.teachers.card import TeacherCard

# On many independent records of the file, with the size and an md5 said to be Zenodo's.
_SHA256 = "0dc499e40e9761ef5ea061ffc77697697f277f6a960894903df3ada000e34b31"

PANNS = TeacherCard(
    name="panns",
    title="PANNs CNN14 (AudioSet mAP .431)",
    version="1",
    licence_code="MIT",
    licence_weights="CC-BY-4.0 (doi:10.5281/zenodo.3987831)",
    training_data=("AudioSet",),
    sample_rate=32000,
    dim=2048,
    window_s="clip",
    hop_s=0.0,
    min_samples=9920,
    longest_pass_s=30.0,
    parameters=79_673_792,
    macs_per_s=20_041_926_656 / 10,
    front_end=(
        "32 kHz; STFT 1024, hop 320, periodic Hann 1024, centred, reflect; power; 64 Slaney mel "
        "bands of equal area 50-14000 Hz; 10 log10(max(power, 1e-10)), no top_db"
    ),
    policy=(
        "Clips shorter than a window, or than 9920 samples (0.31 s), are zero-padded at the end. "
        "Windows up to 30 s pass whole; longer ones as the fewest 10 s pieces that cover them, "
        "averaged. What remains of a window after whole steps of 0.32 s is hardly heard. "
        "Silence gives a constant that depends on the window's length: mask it. bfloat16 "
        "moves embeddings by 1 % of their rms, 3 % at most (random weights). Parameters are "
        "counted without the AudioSet classifier, which no embedding passes, and without the "
        "front end."
    ),
    citation=(
        "Q. Kong, Y. Cao, T. Iqbal, Y. Wang, W. Wang, M. D. Plumbley: PANNs: Large-Scale "
        "Pretrained Audio Neural Networks for Audio Pattern Recognition, IEEE/ACM TASLP 28, 2020 "
        "(arXiv:1912.10211)"
    ),
    weights_file="Cnn14_mAP=0.431.pth",
    url="https://zenodo.org/record/3987831/files/Cnn14_mAP%3D0.431.pth?download=1",
    weights_sha256=_SHA256,
    weights_bytes=327_428_481,
)
