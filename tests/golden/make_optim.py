"""Writes optim.safetensors, which tests/optim/golden_test.cpp compares with: ten steps of every optimizer, and schedules, of PyTorch 2.15.
What PyTorch does not have is a plain f64 NumPy transcription of its paper. Run with PyTorch and NumPy; building and testing need neither.

Parameters are (4, 6), (3, 2, 2, 2) and (5) with sin(0.7 i + k), k = 0.1, 0.2, 0.3. Step t gives the gradient sin(0.7 i + 1.3 t + k) + p / 2.
Muon's, which are (4, 6) and (7, 3), have sin(0.3 i^2 + ...) throughout: matrices whose singular values are all well above 0.
Entries: CASE.f32.p.I and CASE.f64.p.I, CASE.f64.state.I.NAME, schedule.NAME.
"""

import json
import math
import pathlib
import struct

import numpy as np
import torch

SHAPES = [(4, 6), (3, 2, 2, 2), (5,)]
STEPS = 10
out = {}


def wave(shape, k):
    return np.sin(0.7 * np.arange(int(np.prod(shape))) + k).reshape(shape)


def bent_wave(shape, k):
    return np.sin(0.3 * np.arange(int(np.prod(shape))) ** 2 + k).reshape(shape)


def start(i, shape, wave=wave):
    return wave(shape, 0.1 * (i + 1))


def table(t, i, shape, wave=wave):
    return wave(shape, 1.3 * t + 0.1 * (i + 1))


def keep(case, dtype, params, state=None):
    for i, p in enumerate(params):
        out[f"{case}.{dtype}.p.{i}"] = np.asarray(p)
    if dtype == "f64":
        for i, entries in enumerate(state or []):
            for name, value in entries.items():
                out[f"{case}.f64.state.{i}.{name}"] = np.asarray(value, dtype=np.float64)


# ---- PyTorch's optimizers ------------------------------------------------------------------------------------------------


def tensors_of(state):
    return {k: v.detach().numpy() for k, v in state.items() if k != "step" and isinstance(v, torch.Tensor)}


def run(case, make, shapes=SHAPES, wave=wave):
    for dtype, name in ((torch.float32, "f32"), (torch.float64, "f64")):
        torch.set_default_dtype(dtype)
        params = [torch.nn.Parameter(torch.tensor(start(i, s, wave), dtype=dtype)) for i, s in enumerate(shapes)]
        optimizer = make(params)
        for t in range(STEPS):
            for i, p in enumerate(params):
                p.grad = torch.tensor(table(t, i, p.shape, wave), dtype=dtype) + 0.5 * p.detach()
            optimizer.step()
        keep(case, name, [p.detach().numpy() for p in params], [tensors_of(optimizer.state[p]) for p in params])


o = torch.optim
run("sgd", lambda p: o.SGD(p))
run("sgd.momentum", lambda p: o.SGD(p, lr=0.05, momentum=0.9, dampening=0.3, weight_decay=0.1))
run("sgd.nesterov", lambda p: o.SGD(p, lr=0.05, momentum=0.9, nesterov=True, maximize=True))
run("adam", lambda p: o.Adam(p))
run("adam.amsgrad", lambda p: o.Adam(p, lr=0.05, betas=(0.8, 0.9), weight_decay=0.1, amsgrad=True))
run("adam.decoupled", lambda p: o.Adam(p, lr=0.05, weight_decay=0.1, decoupled_weight_decay=True))
run("adamw", lambda p: o.AdamW(p))
run("adamw.amsgrad", lambda p: o.AdamW(p, lr=0.05, eps=1e-3, amsgrad=True, maximize=True))
run("nadam", lambda p: o.NAdam(p))
run("nadam.coupled", lambda p: o.NAdam(p, lr=0.05, betas=(0.8, 0.95), weight_decay=0.1, momentum_decay=0.02, maximize=True))
run("nadam.decoupled", lambda p: o.NAdam(p, lr=0.05, weight_decay=0.1, decoupled_weight_decay=True))
run("radam", lambda p: o.RAdam(p))
run("radam.coupled", lambda p: o.RAdam(p, lr=0.05, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1, maximize=True))
run("radam.decoupled", lambda p: o.RAdam(p, lr=0.05, weight_decay=0.1, decoupled_weight_decay=True))
run("adamax", lambda p: o.Adamax(p))
run("adamax.decay", lambda p: o.Adamax(p, lr=0.05, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1, maximize=True))
run("adadelta", lambda p: o.Adadelta(p))
run("adadelta.decay", lambda p: o.Adadelta(p, lr=0.5, rho=0.8, eps=1e-3, weight_decay=0.1, maximize=True))
run("adagrad", lambda p: o.Adagrad(p))
run("adagrad.decay", lambda p: o.Adagrad(p, lr=0.1, lr_decay=0.1, weight_decay=0.1, initial_accumulator_value=0.2))
run("rmsprop", lambda p: o.RMSprop(p))
run("rmsprop.momentum", lambda p: o.RMSprop(p, lr=0.02, alpha=0.9, momentum=0.8, weight_decay=0.1, maximize=True))
run("rmsprop.centered", lambda p: o.RMSprop(p, lr=0.02, alpha=0.9, eps=1e-3, centered=True))
run("rmsprop.both", lambda p: o.RMSprop(p, lr=0.02, alpha=0.9, eps=1e-3, momentum=0.5, centered=True))
run("rprop", lambda p: o.Rprop(p))
run("rprop.etas", lambda p: o.Rprop(p, lr=0.05, etas=(0.4, 1.5), step_sizes=(0.01, 0.1), maximize=True))
run("asgd", lambda p: o.ASGD(p))
run("asgd.average", lambda p: o.ASGD(p, lr=0.1, lambd=0.1, alpha=0.6, t0=3, weight_decay=0.1, maximize=True))
run("adafactor", lambda p: o.Adafactor(p))
run("adafactor.decay", lambda p: o.Adafactor(p, lr=0.5, beta2_decay=-0.6, eps=(1e-4, 0.1), d=1.5, weight_decay=0.1, maximize=True))
MATRICES = [(4, 6), (7, 3)]
run("muon", lambda p: o.Muon(p), MATRICES, bent_wave)
run("muon.match", lambda p: o.Muon(p, lr=0.05, momentum=0.8, nesterov=False, adjust_lr_fn="match_rms_adamw"), MATRICES,
    bent_wave)


def run_sparse():
    for dtype, name in ((torch.float32, "f32"), (torch.float64, "f64")):
        torch.set_default_dtype(dtype)
        p = torch.nn.Parameter(torch.tensor(start(0, (6, 3)), dtype=dtype))
        optimizer = o.SparseAdam([p], lr=0.05)
        for t in range(STEPS):
            ids = torch.tensor([[t % 6, (t + 2) % 6]])
            p.grad = torch.sparse_coo_tensor(ids, torch.tensor(table(t, 0, (2, 3)), dtype=dtype), (6, 3))
            optimizer.step()
        keep("sparse_adam", name, [p.detach().numpy()], [tensors_of(optimizer.state[p])])


run_sparse()


def run_lbfgs(case, steps, **options):
    """Minimises sum of (p - c)^4 / 4 + s (p - c)^2 / 2, c = wave(k + 1), s = 1 + i % 3, plus 0.05 (sum p)^2, over all parameters."""
    for dtype, name in ((torch.float32, "f32"), (torch.float64, "f64")):
        torch.set_default_dtype(dtype)
        params = [torch.nn.Parameter(torch.tensor(start(i, s), dtype=dtype)) for i, s in enumerate(SHAPES)]
        centers = [torch.tensor(wave(s, 0.1 * (i + 1) + 1), dtype=dtype) for i, s in enumerate(SHAPES)]
        scales = [torch.tensor(1.0 + np.arange(p.numel()) % 3, dtype=dtype).reshape(p.shape) for p in params]
        optimizer = o.LBFGS(params, **options)

        def closure():
            optimizer.zero_grad()
            loss = 0.05 * sum(p.sum() for p in params) ** 2
            for p, c, s in zip(params, centers, scales):
                loss = loss + ((p - c) ** 4).sum() * 0.25 + (s * (p - c) ** 2).sum() * 0.5
            loss.backward()
            return loss

        for _ in range(steps):
            optimizer.step(closure)
        state = optimizer.state[params[0]]
        keep(case, name, [p.detach().numpy() for p in params],
             [{"n_iter": float(state["n_iter"]), "func_evals": float(state["func_evals"]), "prev_flat_grad": state["prev_flat_grad"].numpy()}])


run_lbfgs("lbfgs", 2, lr=0.2, max_iter=5)
run_lbfgs("lbfgs.strong_wolfe", 2, max_iter=5, history_size=3, line_search_fn="strong_wolfe")


class Three(torch.nn.Module):
    def __init__(self, dtype):
        super().__init__()
        for i, s in enumerate(SHAPES):
            setattr(self, "abc"[i], torch.nn.Parameter(torch.tensor(start(i, s), dtype=dtype)))


def run_average(case, **options):
    torch.set_default_dtype(torch.float64)
    model = Three(torch.float64)
    average = o.swa_utils.AveragedModel(model, **options)
    optimizer = o.SGD(model.parameters(), lr=0.1)
    for t in range(STEPS):
        for i, p in enumerate(model.parameters()):
            p.grad = torch.tensor(table(t, i, p.shape)) + 0.5 * p.detach()
        optimizer.step()
        average.update_parameters(model)
    for name, value in average.state_dict().items():
        out[f"{case}.f64.{name}"] = value.numpy().astype(np.float64)


run_average("swa")
run_average("ema", multi_avg_fn=o.swa_utils.get_ema_multi_avg_fn(0.8))

# ---- transcriptions ------------------------------------------------------------------------------------------------------


def grads(t, params):
    return [table(t, i, p.shape) + 0.5 * p for i, p in enumerate(params)]


def transcribe(case, make, names=()):
    """`make(params)` returns step(t), which changes them in place and returns what the optimizer keeps, a list for each name."""
    params = [start(i, s) for i, s in enumerate(SHAPES)]
    step = make(params)
    for t in range(STEPS):
        state = step(t)
    keep(case, "f64", params, [{n: state[j][i] for j, n in enumerate(names)} for i in range(len(params))])


def zeros(params):
    return [np.zeros_like(p) for p in params]


def lion(params, lr=1e-4, beta1=0.9, beta2=0.99, wd=0.0, sign=1):  # Chen et al. 2023, algorithm 2
    m = zeros(params)

    def step(t):
        for i, g in enumerate(grads(t, params)):
            g = sign * g
            c = beta1 * m[i] + (1 - beta1) * g
            params[i] -= lr * (np.sign(c) + wd * params[i])
            m[i] = beta2 * m[i] + (1 - beta2) * g
        return [m]

    return step


def lamb(params, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-6, wd=1e-2, adapt=True, sign=1):  # You et al. 2020, algorithm 2
    m, v = zeros(params), zeros(params)

    def step(t):
        for i, g in enumerate(grads(t, params)):
            g = sign * g
            m[i] = beta1 * m[i] + (1 - beta1) * g
            v[i] = beta2 * v[i] + (1 - beta2) * g * g
            r = (m[i] / (1 - beta1 ** (t + 1))) / (np.sqrt(v[i] / (1 - beta2 ** (t + 1))) + eps)
            u = r + wd * params[i]
            ratio = np.linalg.norm(params[i]) / np.linalg.norm(u) if adapt else 1
            params[i] -= lr * ratio * u
        return [m, v]

    return step


def lars(params, lr=0.1, momentum=0.9, wd=0.0, trust=1e-3, adapt=True, sign=1):  # You, Gitman & Ginsburg 2017, algorithm 1
    buffers = zeros(params)

    def step(t):
        for i, g in enumerate(grads(t, params)):
            g = sign * g
            w = np.linalg.norm(params[i])
            local = trust * w / (np.linalg.norm(g) + wd * w) if adapt else 1
            buffers[i] = momentum * buffers[i] + lr * local * (g + wd * params[i])
            params[i] -= buffers[i]
        return [buffers]

    return step


def schedule_free(params, lr=2.5e-3, beta1=0.9, beta2=0.999, eps=1e-8, wd=0.0, warmup=0, r=0.0, power=2.0, end="y"):
    """Defazio et al. 2024, section 3: x the average, y where gradients are taken, z the iterate."""
    x, z = [p.copy() for p in params], [p.copy() for p in params]
    v = zeros(params)
    sums = {"weights": 0.0, "lr": 0.0}

    def step(t):
        rate = lr * (min(1, (t + 1) / warmup) if warmup else 1)
        sums["lr"] = max(sums["lr"], rate)
        weight = (t + 1) ** r * sums["lr"] ** power
        sums["weights"] += weight
        c = weight / sums["weights"]
        for i, g in enumerate(grads(t, params)):
            y = params[i]
            v[i] = beta2 * v[i] + (1 - beta2) * g * g
            d = g / (np.sqrt(v[i] / (1 - beta2 ** (t + 1))) + eps) + wd * y
            z[i] = z[i] - rate * d
            x[i] = (1 - c) * x[i] + c * z[i]
            params[i][...] = (1 - beta1) * z[i] + beta1 * x[i]
        if end == "x" and t == STEPS - 1:
            for i in range(len(params)):
                params[i][...] = x[i]
        return [z, v]

    return step


def lookahead(params, k=3, alpha=0.4, lr=0.1):  # Zhang et al. 2019, algorithm 1, around gradient descent
    slow = [p.copy() for p in params]

    def step(t):
        for i, g in enumerate(grads(t, params)):
            params[i] -= lr * g
            if (t + 1) % k == 0:
                slow[i] += alpha * (params[i] - slow[i])
                params[i][...] = slow[i]
        return [slow]

    return step


def sam(params, rho=0.3, adaptive=False, lr=0.1, momentum=0.9):  # Foret et al. 2021; Kwon et al. 2021, around SGD with momentum
    buffers = zeros(params)

    def step(t):
        first = grads(t, params)
        norm = math.sqrt(sum(np.sum((np.abs(p) * g if adaptive else g) ** 2) for p, g in zip(params, first)))
        up = [p + rho * (p * p if adaptive else 1) * g / (norm + 1e-12) for p, g in zip(params, first)]
        for i, g in enumerate(grads(t, up)):
            buffers[i] = momentum * buffers[i] + g
            params[i] -= lr * buffers[i]
        return [buffers]

    return step


transcribe("lion", lambda p: lion(p), ["exp_avg"])
transcribe("lion.decay", lambda p: lion(p, lr=0.02, beta1=0.8, beta2=0.95, wd=0.3, sign=-1), ["exp_avg"])
transcribe("lamb", lambda p: lamb(p), ["exp_avg", "exp_avg_sq"])
transcribe("lamb.decay", lambda p: lamb(p, lr=0.05, beta1=0.8, eps=1e-3, wd=0.2, sign=-1), ["exp_avg", "exp_avg_sq"])
transcribe("lamb.plain", lambda p: lamb(p, lr=0.05, adapt=False))
transcribe("lars", lambda p: lars(p), ["momentum_buffer"])
transcribe("lars.decay", lambda p: lars(p, lr=1, wd=0.1, trust=0.1, sign=-1), ["momentum_buffer"])
transcribe("lars.plain", lambda p: lars(p, lr=0.1, adapt=False))
transcribe("schedule_free", lambda p: schedule_free(p), ["z", "exp_avg_sq"])
transcribe("schedule_free.warmup", lambda p: schedule_free(p, lr=0.05, beta1=0.8, beta2=0.95, wd=0.1, warmup=4, r=1, power=1), ["z"])
transcribe("schedule_free.eval", lambda p: schedule_free(p, lr=0.05, end="x"))
transcribe("lookahead", lambda p: lookahead(p), ["slow_buffer"])
transcribe("sam", lambda p: sam(p), ["momentum_buffer"])
transcribe("sam.adaptive", lambda p: sam(p, rho=0.5, adaptive=True), ["momentum_buffer"])

# ---- schedules -----------------------------------------------------------------------------------------------------------

torch.set_default_dtype(torch.float64)
s = o.lr_scheduler
EPOCHS = 31


def optimizer_at(lr=0.1):
    return o.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr, momentum=0.7)


def schedule(name, make, momentum=False):
    optimizer = optimizer_at()
    scheduler = make(optimizer)
    rates, momenta = [], []
    for _ in range(EPOCHS):
        rates.append(optimizer.param_groups[0]["lr"])
        momenta.append(optimizer.param_groups[0]["momentum"])
        optimizer.step()
        scheduler.step()
    out[f"schedule.{name}"] = np.array(rates)
    if momentum:
        out[f"schedule.{name}.momentum"] = np.array(momenta)


schedule("lambda", lambda p: s.LambdaLR(p, lambda e: 1 / (1 + e)))
schedule("multiplicative", lambda p: s.MultiplicativeLR(p, lambda e: 1 - 0.1 / e))
schedule("step", lambda p: s.StepLR(p, 4))
schedule("step.gamma", lambda p: s.StepLR(p, 7, gamma=0.5))
schedule("multi_step", lambda p: s.MultiStepLR(p, [12, 3, 3, 20], gamma=0.5))
schedule("constant", lambda p: s.ConstantLR(p))
schedule("constant.factor", lambda p: s.ConstantLR(p, factor=0.7, total_iters=9))
schedule("linear", lambda p: s.LinearLR(p))
schedule("linear.factors", lambda p: s.LinearLR(p, start_factor=0.9, end_factor=0.1, total_iters=20))
schedule("exponential", lambda p: s.ExponentialLR(p, 0.9))
schedule("polynomial", lambda p: s.PolynomialLR(p))
schedule("polynomial.power", lambda p: s.PolynomialLR(p, total_iters=25, power=2))
schedule("cosine", lambda p: s.CosineAnnealingLR(p, 10))
schedule("cosine.min", lambda p: s.CosineAnnealingLR(p, 12, eta_min=0.02))
schedule("restarts", lambda p: s.CosineAnnealingWarmRestarts(p, 10))
schedule("restarts.mult", lambda p: s.CosineAnnealingWarmRestarts(p, 3, T_mult=2, eta_min=0.01))
schedule("one_cycle", lambda p: s.OneCycleLR(p, 0.4, total_steps=40), True)
schedule("one_cycle.three", lambda p: s.OneCycleLR(p, 0.4, total_steps=40, pct_start=0.25, anneal_strategy="linear", base_momentum=0.6,
                                                   max_momentum=0.9, div_factor=10, final_div_factor=100, three_phase=True), True)
schedule("cyclic", lambda p: s.CyclicLR(p, 0.01, 0.1, step_size_up=5), True)
schedule("cyclic.triangular2", lambda p: s.CyclicLR(p, 0.01, 0.1, step_size_up=4, step_size_down=6, mode="triangular2"), True)
schedule("cyclic.exp_range", lambda p: s.CyclicLR(p, 0.01, 0.1, step_size_up=4, mode="exp_range", gamma=0.95), True)
schedule("swa", lambda p: o.swa_utils.SWALR(p, 0.01))
schedule("swa.linear", lambda p: o.swa_utils.SWALR(p, 0.01, anneal_epochs=6, anneal_strategy="linear"))
schedule("sequential", lambda p: s.SequentialLR(p, [s.LinearLR(p, 0.2, total_iters=5), s.CosineAnnealingLR(p, 15), s.ConstantLR(p, 0.3)],
                                                [5, 20]))
schedule("chained", lambda p: s.ChainedScheduler([s.ConstantLR(p, 0.5, total_iters=4), s.ExponentialLR(p, 0.9)]))


def metric(t):
    return 1 / (1 + 0.3 * t) + 0.1 * math.sin(0.7 * t)


def plateau(name, sign=1, **options):
    optimizer = optimizer_at()
    scheduler = s.ReduceLROnPlateau(optimizer, **options)
    rates = []
    for t in range(EPOCHS):
        scheduler.step(sign * metric(t))
        rates.append(optimizer.param_groups[0]["lr"])
    out[f"schedule.{name}"] = np.array(rates)


plateau("plateau", patience=1)
plateau("plateau.abs", sign=-1, mode="max", factor=0.5, patience=0, threshold=0.01, threshold_mode="abs", cooldown=2, min_lr=0.004)

# Vaswani et al. 2017, equation 3; Hu et al. 2024 and transformers' get_wsd_schedule; transformers' get_inverse_sqrt_schedule.
out["schedule.noam"] = np.array([2 * 64**-0.5 * min((t + 1) ** -0.5, (t + 1) * 8**-1.5) for t in range(EPOCHS)])
out["schedule.inverse_sqrt"] = np.array([0.1 * (t / 6 if t < 6 else (t / 6) ** -0.5) for t in range(EPOCHS)])


def wsd(t, shape, low):
    if t < 5:
        f = t / 5
    elif t < 15:
        f = 1
    elif t < 25:
        f = shape((t - 15) / 10)
    else:
        f = 0
    return 0.1 * (f * (1 - low) + low)


out["schedule.wsd"] = np.array([wsd(t, lambda x: 1 - x, 0) for t in range(EPOCHS)])
out["schedule.wsd.cosine"] = np.array([wsd(t, lambda x: 0.5 * (1 + math.cos(math.pi * x)), 0.1) for t in range(EPOCHS)])
out["schedule.wsd.sqrt"] = np.array([wsd(t, lambda x: 1 - math.sqrt(x), 0) for t in range(EPOCHS)])
out["schedule.warmup"] = np.array([0.1 * (t + 1) / 5 if t < 4 else 0.1 * 0.9 ** (t - 4) for t in range(EPOCHS)])

# ---- the file ------------------------------------------------------------------------------------------------------------

header, data = {"__metadata__": {"pytorch": torch.__version__, "numpy": np.__version__}}, b""
for name in sorted(out, key=lambda n: (-out[n].dtype.itemsize, n)):
    value = np.asarray(out[name], order="C")
    header[name] = {
        "dtype": {"float32": "F32", "float64": "F64"}[str(value.dtype)],
        "shape": list(value.shape),
        "data_offsets": [len(data), len(data) + value.nbytes],
    }
    data += value.tobytes()
text = json.dumps(header, separators=(",", ":")).encode()
text += b" " * (-len(text) % 8)
path = pathlib.Path(__file__).parent / "optim.safetensors"
path.write_bytes(struct.pack("<Q", len(text)) + text + data)
print(path, path.stat().st_size)
