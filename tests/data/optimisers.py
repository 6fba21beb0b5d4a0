"""Writes optimisers.json: the steps of PyTorch's optimisers, clipping and schedulers on a small problem.

usage: OMP_NUM_THREADS=1 python optimisers.py > optimisers.json      (torch 2.15, CPU)

The steps are made in float32, the type that trainings use here and there: what is compared is the arithmetic of one step
after another, its roundings included, and a float64 reference would hide how far those carry. The factors of schedules
are float64, as PyTorch keeps rates.

The problem has two tensors, each with its own rate and weight decay. Its loss at step t = 0, 1, ... is the sum over all
elements of

    slope / 2 * (x - target)^2 + push[t] * x,

so that a gradient is slope * (x - target) + push[t], in float32; the push has sizes from 0.01 to 100 and either sign.
An epoch is one step.
"""
import json

import torch
from torch.optim import lr_scheduler as schedulers

torch.set_num_threads(1)
STEPS = 12
SIZES = [5, 4]
KINDS = dict(adamw=torch.optim.AdamW, adam=torch.optim.Adam, sgd=torch.optim.SGD, rmsprop=torch.optim.RMSprop)
generator = torch.Generator().manual_seed(7)


def draw(*shape):
    # Few digits keep the file small.
    return [round(x, 2) for x in torch.randn(*shape, generator=generator).tolist()]


start = [draw(n) for n in SIZES]
target = [draw(n) for n in SIZES]
slope = [[round(0.05 + abs(x), 2) for x in draw(n)] for n in SIZES]
push = [[[round(x * 10 ** ((t + i) % 5 - 2), 4) for i, x in enumerate(draw(n))] for n in SIZES] for t in range(STEPS)]


def scheduler(optimiser, schedule, warm_up, epochs):
    """The scheduler of a pipeline's `schedule` and `warm_up`."""
    epochs -= warm_up["epochs"] if warm_up else 0
    base = optimiser.param_groups[0]["lr"]
    kind = schedule["kind"]
    if kind == "constant":
        made = schedulers.ConstantLR(optimiser, factor=1.0)
    elif kind == "step":
        made = schedulers.StepLR(optimiser, schedule["every"], schedule["factor"])
    elif kind == "multi_step":
        made = schedulers.MultiStepLR(optimiser, schedule["at"], schedule["factor"])
    elif kind == "cosine":
        # One eta_min serves all groups, a floor is a share of each group's rate.
        assert schedule["floor"] == 0 or len({g["lr"] for g in optimiser.param_groups}) == 1
        made = schedulers.CosineAnnealingLR(optimiser, epochs, eta_min=schedule["floor"] * base)
    if warm_up:
        rise = schedulers.LinearLR(optimiser, start_factor=warm_up["start"], total_iters=warm_up["epochs"])
        made = schedulers.SequentialLR(optimiser, [rise, made], milestones=[warm_up["epochs"]])
    return made


def steps(options, rates, decays, schedule, warm_up=None, clip=None, clip_norm=None):
    parameters = [torch.tensor(x).requires_grad_(True) for x in start]
    groups = [dict(params=[p], lr=r, weight_decay=d) for p, r, d in zip(parameters, rates, decays)]
    optimiser = KINDS[options["kind"]](groups, **{k: v for k, v in options.items() if k != "kind"})
    rate = scheduler(optimiser, schedule, warm_up, STEPS)
    after, norms = [], []
    for t in range(STEPS):
        optimiser.zero_grad()
        loss = 0
        for p, c, a, w in zip(parameters, target, slope, push[t]):
            loss = loss + (torch.tensor(a) / 2 * (p - torch.tensor(c)) ** 2 + torch.tensor(w) * p).sum()
        loss.backward()
        if clip_norm:
            norms.append(torch.nn.utils.clip_grad_norm_(parameters, clip_norm).item())
        if clip:
            torch.nn.utils.clip_grad_value_(parameters, clip)
        optimiser.step()
        rate.step()
        # Nine digits name a float32.
        after.append([[float(f"{x:.9g}") for x in p.tolist()] for p in parameters])
    return dict(optimiser=options, learning_rates=rates, weight_decays=decays, schedule=schedule, warm_up=warm_up,
                clip=clip, clip_norm=clip_norm, norms=norms, after=after)


def factors(schedule, warm_up=None, epochs=25):
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    rate = scheduler(optimiser, schedule, warm_up, epochs)
    found = []
    for _ in range(epochs):
        found.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        rate.step()
    return dict(schedule=schedule, warm_up=warm_up, epochs=epochs, factors=found)


CONSTANT = dict(kind="constant")
STEP = dict(kind="step", every=3, factor=0.5)
MULTI = dict(kind="multi_step", at=[2, 7, 8], factor=0.4)
COSINE = dict(kind="cosine", floor=0.0)
WARM = dict(epochs=4, start=0.25)
RATES, DECAYS, NONE = [0.03, 0.2], [0.1, 0.01], [0.0, 0.0]

cases = [
    steps(dict(kind="adamw"), RATES, DECAYS, STEP),
    steps(dict(kind="adamw", betas=[0.8, 0.95], eps=1e-3), RATES, [2.0, 0.0], COSINE, WARM),
    steps(dict(kind="adamw"), RATES, DECAYS, CONSTANT, clip=0.5),
    steps(dict(kind="adam"), RATES, NONE, COSINE),
    steps(dict(kind="adam", betas=[0.5, 0.9], eps=1e-6), RATES, DECAYS, MULTI, clip_norm=2.0),
    steps(dict(kind="sgd"), RATES, NONE, STEP, WARM),
    steps(dict(kind="sgd", momentum=0.9), RATES, DECAYS, MULTI, clip=1.5),
    steps(dict(kind="sgd", momentum=0.9, dampening=0.3), RATES, DECAYS, CONSTANT, WARM),
    steps(dict(kind="sgd", momentum=0.9, nesterov=True), RATES, DECAYS, COSINE, clip_norm=5.0),
    steps(dict(kind="rmsprop"), RATES, NONE, STEP),
    steps(dict(kind="rmsprop", alpha=0.9, eps=1e-4, momentum=0.9), RATES, DECAYS, COSINE, clip=10.0),
    steps(dict(kind="rmsprop", centered=True), RATES, DECAYS, MULTI, WARM),
    steps(dict(kind="rmsprop", alpha=0.8, momentum=0.5, centered=True), RATES, DECAYS, STEP, clip_norm=1.0, clip=0.3),
]
SCHEDULES = [CONSTANT, STEP, MULTI, dict(kind="multi_step", at=[10, 20], factor=0.3), COSINE,
             dict(kind="cosine", floor=0.05)]
schedules = [factors(s, w) for s in SCHEDULES for w in [None, WARM]]
schedules += [factors(CONSTANT, dict(epochs=1, start=0.1)), factors(COSINE, dict(epochs=24, start=1 / 3))]
schedules += [factors(COSINE, epochs=7)]


def lines(items):
    return "[\n" + ",\n".join(json.dumps(item) for item in items) + "\n]"


version = torch.__version__.split("+")[0]
problem = json.dumps(dict(start=start, target=target, slope=slope, push=push))
print(f'{{"torch": "{version}",\n"problem": {problem},')
print(f'"cases": {lines(cases)},\n"schedules": {lines(schedules)}}}')
