"""Read embeddings: python read_result.py RESULT.h5"""

import sys

import h5py

with h5py.File(sys.argv[1]) as file:
    ids = file["ids"].asstr()[...]
    vectors = file["embeddings"][...]  # (sequences, numbers) float32, in input order
    print(f"{len(ids)} sequences, {vectors.shape[1]} numbers each, by {file.attrs['model']}")
    if not file.attrs["model_trained"]:
        print("(an UNTRAINED model: this shows that the tool works; the numbers mean nothing)")
    for name, vector in zip(ids, vectors, strict=True):
        print(f"{name[:40]:<40}", *(f"{number:6.2f}" for number in vector[:5]), "…")
