"""Writes losses_more.json: reference values in 64 bits of losses and options missing from losses.json.

usage: python losses_more.py > losses_more.json      (torch, pytorch-metric-learning 2.9)

Values come from pytorch-metric-learning where it has the loss, else from the formula of its paper, written with torch's
operations and differentiated by torch; each case's note says which.
"""
import json
import math

import torch
import torch.nn.functional as F
from pytorch_metric_learning import distances, losses, miners, regularizers

torch.set_default_dtype(torch.float64)
LIBRARY = "pytorch-metric-learning"
FORMULA = "formula of the paper in torch"
cases = []


def rows(generator, count, dim):
    # Few digits keep the file small, and are exact in the file.
    return (torch.randn(count, dim, generator=generator) * 100).round() / 100


def batch(generator, count, dim, classes, per_class):
    present = torch.randperm(classes, generator=generator)[: max(2, count // per_class)]
    return rows(generator, count, dim), present[torch.arange(count) % len(present)]


def case(loss, params, shape, f, note=LIBRARY, parameters=(), past=0):
    """`f(embeddings, labels, *parameters, earlier batches)` is the value; `parameters` are shapes or tensors."""
    count, dim, classes, per_class = shape
    generator = torch.Generator().manual_seed(1000 + len(cases))
    e, y = batch(generator, count, dim, classes, per_class)
    memory = [batch(generator, count, dim, classes, per_class) for _ in range(past)]
    leaves = [e] + [p.clone() if torch.is_tensor(p) else rows(generator, *p) for p in parameters]
    leaves = [leaf.requires_grad_(True) for leaf in leaves]
    value = f(leaves[0], y, *leaves[1:], *([memory] if past else [])).sum()
    slopes = torch.autograd.grad(value, leaves, allow_unused=True)
    slopes = [torch.zeros_like(p) if g is None else g for p, g in zip(leaves, slopes)]
    expected = dict(loss=value.item(), grad_embeddings=slopes[0].tolist())
    out = dict(loss=loss, params=params, note=note, num_classes=classes, embeddings=e.tolist(), labels=y.tolist())
    if len(leaves) == 2:
        out["note"] += ", (num_classes, dim)"
        out["proxies"], expected["grad_proxies"] = leaves[1].tolist(), slopes[1].tolist()
    elif leaves[1:]:
        out["matrices"], expected["grad_matrices"] = [p.tolist() for p in leaves[1:]], [g.tolist() for g in slopes[1:]]
    if memory:
        out["memory"] = [dict(embeddings=e.tolist(), labels=y.tolist()) for e, y in memory]
    cases.append(dict(out, expected=expected))


def functional(module, name, transposed=False):
    """A module of the library as a function of its parameter `name`."""

    def f(e, y, parameter):
        delattr(module, name)
        setattr(module, name, parameter.t() if transposed else parameter)
        return module(e, y)

    return f


def semi_hard(margin):
    def f(e, y):
        triplets = miners.TripletMarginMiner(margin=margin, type_of_triplets="semihard")(e, y)
        return losses.TripletMarginLoss(margin=margin)(e, y, triplets)

    return f


def margin_loss(margin, nu, beta):
    module = losses.MarginLoss(margin=margin, nu=nu, learn_beta=True, num_classes=None if beta == 1 else beta)

    def f(e, y, parameter):
        del module.beta
        module.beta = parameter.flatten()
        return module(e, y)

    return f


def arcface_plain(degrees, scale):
    # The convention of pytorch-metric-learning 0.9.88.
    def f(e, y, w):
        cosines = F.normalize(e, dim=1) @ F.normalize(w, dim=1).t()
        own = cosines.gather(1, y[:, None])
        target = torch.cos(torch.acos(own.clamp(-1 + 1e-7, 1 - 1e-7)) + math.radians(degrees))
        return F.cross_entropy(scale * cosines.scatter(1, y[:, None], target), y)

    return f


def center(weight):
    def f(e, y, w, z):
        return F.cross_entropy(e @ w.t(), y) + weight / 2 * (e - z[y]).square().sum(1).mean()

    return f


def soft_triple(centres, la, gamma, margin, tau):
    # 1e-5 under the root as in the paper's code; the library has the smallest number of the type.
    def f(e, y, w):
        classes = len(w) // centres
        w = F.normalize(w, dim=1)
        s = (F.normalize(e, dim=1) @ w.t()).view(len(e), classes, centres)
        s = (F.softmax(s / gamma, dim=2) * s).sum(2)
        value = F.cross_entropy(la * (s - margin * F.one_hot(y, classes)), y)
        own = w.view(classes, centres, -1)
        pairs = torch.triu_indices(centres, centres, 1)
        near = (own @ own.transpose(1, 2))[:, pairs[0], pairs[1]]
        return value + tau * torch.sqrt(2 + 1e-5 - 2 * near).sum() / (classes * centres * (centres - 1))

    return f


def snr(pos_margin, neg_margin, weight):
    def f(e, y):
        # The regulariser of normalised embeddings, as version 0.9.88 has it.
        value = losses.ContrastiveLoss(pos_margin, neg_margin, distance=distances.SNRDistance())(e, y)
        return value + weight * regularizers.ZeroMeanRegularizer()(F.normalize(e, dim=1))

    return f


def remembered(make, size, miner=None):
    def f(e, y, *rest):
        memory = rest[-1] if rest and isinstance(rest[-1], list) else []
        module = losses.CrossBatchMemory(make(*rest[: len(rest) - bool(memory)]), e.shape[1], memory_size=size, miner=miner)
        for past in memory:
            module(*past)
        return module(e, y)

    return f


def learned_beta(margin, nu, classes):
    def make(beta):
        module = losses.MarginLoss(margin=margin, nu=nu, learn_beta=True, num_classes=classes)
        del module.beta
        module.beta = beta.flatten()
        return module

    return make


LARGE = [(12, 8, 6, 3), (16, 5, 9, 2)]
SMALL = (10, 6, 5, 3)
for shape in LARGE:
    for margin in [0.1, 0.4]:
        case("triplet", dict(margin=margin, triplets="semi_hard"), shape, semi_hard(margin))
    count, dim, classes, _ = shape
    for boundary, betas in [("learned", 1), ("per_class", classes)]:
        start = torch.linspace(0.8, 1.3, betas)[:, None]
        case("margin", dict(margin=0.2, beta=1.0, boundary=boundary, nu=0.3), shape, margin_loss(0.2, 0.3, betas), parameters=[start])
    case("margin", dict(margin=0.1, beta=0.9, boundary="per_class", nu=0.0), shape, margin_loss(0.1, 0.0, classes), parameters=[torch.full((classes, 1), 0.9)])
    for degrees in [28.6, 80.0]:
        vectors = [(classes, dim)]
        case("arcface", dict(margin_degrees=degrees, scale=16.0, large_angle="plain"), shape, arcface_plain(degrees, 16.0), FORMULA, vectors)
    for embeddings in ["raw", "unit"]:
        product = distances.DotProductSimilarity(normalize_embeddings=embeddings == "unit")
        case("n_pair", dict(embeddings=embeddings), shape, losses.NPairsLoss(distance=product))
    case("soft_triple", dict(centers_per_class=3, la=20.0, gamma=0.1, margin=0.01, tau=0.2), shape, soft_triple(3, 20.0, 0.1, 0.01, 0.2), FORMULA, [(3 * classes, dim)])
    case("snr_contrastive", dict(pos_margin=0.1, neg_margin=1.0, zero_mean_reg=0.4), shape, snr(0.1, 1.0, 0.4), "pytorch-metric-learning, its regulariser on unit embeddings")
for weight in [0.003, 0.5, 0.0]:
    case("center", dict(weight=weight), SMALL, center(weight), FORMULA, [(5, 6), (5, 6)])

# Cross-batch memory: first step, memory not full, memory full and turned over (10 + 10 + 10 + 10 samples in 24 places).
for past in [0, 1, 3]:
    wrapped = [
        (dict(kind="contrastive", pos_margin=0.2, neg_margin=0.9), lambda: losses.ContrastiveLoss(0.2, 0.9), None),
        (dict(kind="triplet", margin=0.1), lambda: losses.TripletMarginLoss(margin=0.1), None),
        (dict(kind="nt_xent", temperature=0.1), lambda: losses.NTXentLoss(temperature=0.1), None),
        (dict(kind="multi_similarity", alpha=2, beta=50, base=0.5), lambda: losses.MultiSimilarityLoss(2, 50, 0.5), None),
        (dict(kind="snr_contrastive", pos_margin=0.1, neg_margin=1.0), lambda: losses.ContrastiveLoss(0.1, 1.0, distance=distances.SNRDistance()), None),
    ]
    if past == 3:
        # Full enough for every anchor to have a positive: the library's miner also sees an anchor's pair with itself.
        mined = dict(kind="multi_similarity", alpha=2, beta=50, base=0.5, miner="multi_similarity", miner_epsilon=0.1)
        wrapped.append((mined, wrapped[3][1], miners.MultiSimilarityMiner(epsilon=0.1)))
    for params, make, miner in wrapped:
        case("cross_batch_memory", dict(memory_size=24, loss=params), SMALL, remembered(make, 24, miner), past=past)
betas = torch.linspace(0.8, 1.3, 5)[:, None]
params = dict(kind="margin", margin=0.2, beta=1.0, boundary="per_class", nu=0.3)
case("cross_batch_memory", dict(memory_size=24, loss=params), SMALL, remembered(learned_beta(0.2, 0.3, 5), 24), parameters=[betas], past=2)

print(json.dumps(dict(generator="float64; gradients of the scalar loss", cases=cases)))
