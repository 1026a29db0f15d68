"""Embed a folder of recordings once, then look at the embeddings.

    python examples/batch_extraction.py

The cells (`# %%`) run one by one in editors that know them. Nothing is downloaded: the recordings
are the built-in toy collection and the teacher is `spectral`. Put your own folder into FOLDER
(`datasets.load("folder", FOLDER, csv="labels.csv")`) and your teacher into TEACHER.
"""

# %% Recordings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from understudy import datasets
from understudy.cache import CacheReader
from understudy.extract import extract

TEACHER = "spectral"
OUT = Path("runs/examples")
CLIPS = 60

index = datasets.load("toy-studio", OUT / "toy-studio", n_clips=CLIPS)
print(index.clips[["clip_id", "duration_s", "split"]].head())

# %% Embeddings: written once; run again, nothing is left to do
stores = extract(index, [TEACHER], OUT / "cache", audio=True)
reader = CacheReader(stores[TEACHER])
print(reader)

# %% A batch, into a buffer of yours: (clip, frame, channel), NaN beyond each clip's frames
usable = np.flatnonzero(reader.status == 1)
buffer = np.empty((8, reader.max_frames, reader.dim), reader.dtype)
embedding, n_frames = reader.gather(usable[:8], out=buffer)
print(embedding.shape, n_frames)

# %% One vector a clip, and which clips are alike
embedding, n_frames = reader.gather(usable)
vectors = np.nanmean(embedding.astype(np.float32), axis=1)
vectors = (vectors - vectors.mean(0)) / (vectors.std(0) + 1e-6)
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
alike = vectors @ vectors.T
np.fill_diagonal(alike, -1)
for row in range(3):
    ids = index.clips["clip_id"]
    print(f"{ids[usable[row]]} sounds most like {ids[usable[alike[row].argmax()]]}")

# %% Seen
_, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
axes[0].imshow(embedding[0].astype(np.float32).T, aspect="auto", origin="lower")
axes[0].set(title=index.clips["clip_id"][usable[0]], xlabel="frame", ylabel="channel")
axes[1].imshow(alike, vmin=-1, vmax=1, cmap="RdBu_r")
axes[1].set(title="cosine similarity of clips", xlabel="clip", ylabel="clip")
plt.savefig(OUT / "embeddings.png", dpi=120)
print(f"Picture: {OUT / 'embeddings.png'}")
