"""Deterministic weights and audio for golden tests: pure functions of (seed, name, shape).

They draw on PCG64's raw bits only, not on torch's RNG or numpy's distribution code."""

import hashlib

import numpy as np
import torch

# Constants of a front end (windows, filter banks, DFT kernels) stay as the model computed them.
FRONT_END = ("spec.", "hstft.spec.", "mel.", "spectrogram_extractor.", "logmel_extractor.")
FIXED = ("num_batches_tracked", "device_proxy")
INPUT_NORM = ("spec_bn.", "hstft_bn.", "bn0.")  # normalises decibels, so it needs wide statistics


def noise(seed, name, shape):
    """float32 array, uniform with mean 0 and variance 1, determined by seed, name and shape."""
    key = int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "little")
    raw = np.random.PCG64(key).random_raw(int(np.prod(shape, dtype=np.int64)))
    unit = (np.asarray(raw, np.uint64) >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
    return ((unit * 2 - 1) * np.float32(3**0.5)).reshape(shape)


def is_constant(name):
    """True for the tensors that fill_ leaves untouched."""
    return name.startswith(FRONT_END) or name.rsplit(".", 1)[-1] in FIXED


def value(seed, name, shape):
    """The float32 array that parameter or buffer `name` of `shape` receives."""
    n, leaf = noise(seed, name, shape), name.rsplit(".", 1)[-1]
    wide = np.float32(20 if name.startswith(INPUT_NORM) else 1)
    if leaf == "running_var":
        return wide**2 * (1 + np.float32(0.1) * np.abs(n))
    if leaf in ("bias", "running_mean"):
        return np.float32(0.1) * n * (wide if leaf == "running_mean" else 1)
    if leaf == "bw_Q" or (leaf == "weight" and len(shape) == 1):  # band width, normalisation gain
        return 1 + np.float32(0.1) * n
    if leaf == "weight":  # linear: unit gain; convolution: He gain
        return n * np.float32(((1 if len(shape) == 2 else 2) / np.prod(shape[1:])) ** 0.5)
    return np.float32(0.5) * n  # tokens and positional embeddings


def fill_(model, seed):
    """Overwrite every learned tensor of `model` in place; returns the names left untouched."""
    state = model.state_dict()
    for name, tensor in state.items():
        if not is_constant(name):
            tensor.copy_(torch.from_numpy(value(seed, name, tuple(tensor.shape))))
    return [name for name in state if is_constant(name)]


def audio(seed, sample_rate, n_samples, batch=2):
    """(batch, n_samples) float32 within [-1, 1]: five slowly gated sines plus weak noise."""
    t = np.arange(n_samples, dtype=np.float64) / sample_rate
    out = 0.05 * noise(seed, f"audio:{sample_rate}:{n_samples}", (batch, n_samples)).astype("f8")
    for b in range(batch):
        for k, hertz in enumerate((110.0, 440.0, 1234.5, 3001.0, 6900.0)):
            gate = 0.5 + 0.5 * np.sin(2 * np.pi * (0.3 + 0.2 * k) * t + 1.3 * b + k + seed)
            out[b] += 0.15 * gate * np.sin(2 * np.pi * hertz * (1 + 0.07 * b + 0.03 * seed) * t)
    return out.astype(np.float32)


def tagger_audio(case, n_samples):
    """Input of the golden `case` of a tagger at 32 kHz: tones, or partly silence; (2, samples)."""
    made = torch.from_numpy(audio(1, 32000, int(n_samples)))
    if case == "silence":
        made[0], made[1, n_samples // 2 :] = 0, 0
    return made


def close(found, wanted):
    """Within 1e-4 of the wanted values' rms."""
    rms = float(np.sqrt(np.mean(np.square(wanted, dtype=np.float64))))
    np.testing.assert_allclose(np.asarray(found), wanted, rtol=0, atol=1e-4 * rms)
