#!/usr/bin/env python3
"""Writes clusterings.json: labelings, and scikit-learn's scores of their agreement. Needs numpy and scikit-learn."""
import json, pathlib
import numpy as np
from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score
from sklearn.metrics.cluster import pair_confusion_matrix

random = np.random.default_rng(7)
pairs = []
for n, classes, clusters, agree in [(50, 5, 5, 0.8), (200, 20, 13, 0.5), (400, 90, 90, 0.9), (300, 3, 40, 0.0), (120, 60, 2, 0.3)]:
    a = random.integers(0, classes, n)
    pairs.append((a, np.where(random.random(n) < agree, a % clusters, random.integers(0, clusters, n))))
pairs.append((np.arange(12) // 3, 3 - np.arange(12) // 3))  # the same, under other names
pairs.append((np.zeros(6, int), np.zeros(6, int)))
pairs.append((np.zeros(6, int), np.arange(6) % 2))
cases = []
for a, b in pairs:
    (_, fp), (fn, tp) = pair_confusion_matrix(a, b)
    cases.append({
        "classes": a.tolist(),
        "clusters": b.tolist(),
        "nmi": float(normalized_mutual_info_score(a, b)),
        "ami": float(adjusted_mutual_info_score(a, b)),
        "f1": float(2 * tp / (2 * tp + fp + fn)),
    })
pathlib.Path(__file__).with_name("clusterings.json").write_text(json.dumps(cases) + "\n")
