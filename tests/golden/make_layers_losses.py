"""Writes layers_losses.safetensors, which tests/nn/loss_test.cpp compares with: losses of PyTorch 2.15 in f64, with their gradients. What PyTorch does not
have is a transcription of its paper. Run with PyTorch and safetensors; building and testing need neither.

Entries of a CASE: CASE.x.NAME, inputs that get gradients; CASE.k.NAME, others; CASE.y; CASE.d.NAME, the gradients of sum(y * sin(0.7 i + 0.5)).
"""

import math
import pathlib

import torch
import torch.nn.functional as F

from layer_cases import case, integers, save, wave

a, b = 1.5 * wave(4, 3, k=0.1), 1.5 * wave(4, 3, k=1.7)
signs = torch.where(wave(4, k=0.4) > 0, 1.0, -1.0)
all_signs = torch.where(wave(4, 3, k=0.4) > 0, 1.0, -1.0)
share = 0.5 + 0.45 * wave(4, 3, k=2.1)

# ---- element by element -----------------------------------------------------------------------------------------------------

for reduction in ("none", "mean", "sum"):
    case(f"l1_{reduction}", lambda a, b: F.l1_loss(a, b, reduction=reduction), dict(a=a, b=b))
    case(f"smooth_l1_{reduction}", lambda a, b: F.smooth_l1_loss(a, b, reduction=reduction, beta=0.7), dict(a=a, b=b))
case("mse", F.mse_loss, dict(input=a, target=b))
case("smooth_l1_beta_0", lambda a, b: F.smooth_l1_loss(a, b, beta=0.0), dict(a=a, b=b))
case("huber", lambda a, b: F.huber_loss(a, b, delta=0.8), dict(a=a, b=b))
case("bce", lambda p, t: F.binary_cross_entropy(p, t), dict(p=0.5 + 0.49 * wave(4, 3), t=share))
edge = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.3])
case("bce_at_0_and_1", lambda p, t: F.binary_cross_entropy(p, t, reduction="none"), dict(p=edge), dict(t=torch.tensor([0.0, 0.0, 1.0, 1.0, 0.4])))
case("bce_weight", lambda p, t, w: F.binary_cross_entropy(p, t, w, reduction="sum"), dict(p=0.5 + 0.49 * wave(4, 3)), dict(t=share, w=2 + wave(3)))
case("bce_logits", lambda a, t: F.binary_cross_entropy_with_logits(a, t), dict(a=8 * a, t=share))
case("bce_logits_weights", lambda a, t, w, p: F.binary_cross_entropy_with_logits(a, t, w, pos_weight=p, reduction="none"), dict(a=8 * a),
     dict(t=share, w=2 + wave(4, 1), p=2 + wave(3)))
log_p, q = torch.log_softmax(a, 1), torch.softmax(b, 1)
for reduction in ("none", "mean", "sum", "batchmean"):
    case(f"kl_div_{reduction}", lambda x, t: F.kl_div(x, t, reduction=reduction), dict(x=log_p, t=q))
case("kl_div_log_target", lambda x, t: F.kl_div(x, t, reduction="batchmean", log_target=True), dict(x=log_p, t=q.log()))
counts = torch.tensor([0.0, 1.0, 2.0, 5.0, 3.0, 0.0, 1.0, 4.0, 9.0, 2.0, 1.0, 7.0]).reshape(4, 3)
case("poisson", F.poisson_nll_loss, dict(input=a), dict(target=counts))
case("poisson_full", lambda x, t: F.poisson_nll_loss(x, t, log_input=False, full=True, reduction="none"), dict(x=a.abs() + 0.1), dict(t=counts))
case("gaussian", F.gaussian_nll_loss, dict(input=a, target=b, var=wave(4, 3, k=3).abs()))
case("gaussian_full", lambda a, b, v: F.gaussian_nll_loss(a, b, v, full=True, eps=0.5, reduction="none"), dict(a=a, b=b, v=wave(4, 1, k=3).abs()))
case("gaussian_row", lambda a, b, v: F.gaussian_nll_loss(a, b, v, reduction="sum"), dict(a=a, b=b, v=wave(4, k=3).abs() + 0.1))
case("soft_margin", F.soft_margin_loss, dict(input=a), dict(target=all_signs))

# ---- classes ------------------------------------------------------------------------------------------------------------------

logits, weight = 2 * wave(5, 4, k=0.2), 1.2 + wave(4)
labels, some_ignored = integers([3, 0, 1, 2, 0]), integers([3, -100, 1, 2, 0])
images, pixels = 2 * wave(2, 4, 3, 2, k=0.3), integers([0, 1, 2, 3, 3, 2, 1, 0, -100, 1, 2, 2], 2, 3, 2)
shares = torch.softmax(wave(5, 4, k=2), 1)
for reduction in ("none", "mean", "sum"):
    case(f"nll_{reduction}", lambda x, t, w: F.nll_loss(x, t, w, reduction=reduction), dict(x=torch.log_softmax(logits, 1)), dict(t=some_ignored, w=weight))
    case(f"cross_entropy_{reduction}", lambda x, t, w: F.cross_entropy(x, t, w, label_smoothing=0.2, reduction=reduction), dict(x=logits), dict(t=some_ignored, w=weight))
    case(f"cross_entropy_shares_{reduction}", lambda x, t, w: F.cross_entropy(x, t, w, label_smoothing=0.1, reduction=reduction), dict(x=logits, t=shares), dict(w=weight))
case("nll_pixels", lambda x, t: F.nll_loss(x, t), dict(x=images), dict(t=pixels))
case("nll_one", lambda x, t: F.nll_loss(x, t), dict(x=logits[0]), dict(t=integers([2]).reshape(())))
case("cross_entropy_pixels", lambda x, t, w: F.cross_entropy(x, t, w, label_smoothing=0.3), dict(x=images), dict(t=pixels, w=weight))
case("cross_entropy_pixels_plain", lambda x, t: F.cross_entropy(x, t, ignore_index=3, reduction="none"), dict(x=images), dict(t=pixels.clamp(min=0)))
case("cross_entropy_one", lambda x, t, w: F.cross_entropy(x, t, w), dict(x=logits[0]), dict(t=integers([2]).reshape(()), w=weight))
case("multi_margin", lambda x, t: F.multi_margin_loss(x, t), dict(x=logits), dict(t=labels))
case("multi_margin_squared", lambda x, t, w: F.multi_margin_loss(x, t, p=2, margin=0.6, weight=w, reduction="none"), dict(x=logits), dict(t=labels, w=weight))
several = integers([3, 0, -1, 1, 1, 2, 0, -1, -1, 0, 1, 2, 2, -1, 3, 3, 0, 1, 2, 3], 5, 4)
case("multilabel_margin", lambda x, t: F.multilabel_margin_loss(x, t), dict(x=logits), dict(t=several))
case("multilabel_margin_none", lambda x, t: F.multilabel_margin_loss(x, t, reduction="none"), dict(x=logits), dict(t=several))
case("multilabel_soft_margin", lambda x, t, w: F.multilabel_soft_margin_loss(x, t, w), dict(x=logits), dict(t=(wave(5, 4) > 0).double(), w=weight))


def focal(x, t, alpha, gamma):  # Lin et al. 2017
    p = torch.sigmoid(x)
    p_t = p * t + (1 - p) * (1 - t)
    a_t = alpha * t + (1 - alpha) * (1 - t) if alpha >= 0 else 1
    return a_t * (1 - p_t) ** gamma * -torch.log(p_t)


case("focal", lambda x, t: focal(x, t, 0.25, 2), dict(x=logits), dict(t=(wave(5, 4) > 0).double()))
case("focal_gamma", lambda x, t: focal(x, t, -1, 1.5).mean(), dict(x=logits), dict(t=(wave(5, 4) > 0).double()))

frames = 2 * wave(9, 4, 5, k=0.6)
for reduction in ("none", "mean", "sum"):
    case(f"ctc_{reduction}", lambda x, t, i, l: F.ctc_loss(torch.log_softmax(x, 2), t, i, l, reduction=reduction), dict(x=frames),
         dict(t=integers([1, 2, 2, 4, 3, 0, 4, 1, 1, 2, 4, 0, 3, 3, 0, 0], 4, 4), i=integers([9, 7, 8, 9]), l=integers([4, 1, 3, 2])))
case("ctc_concatenated", lambda x, t, i, l: F.ctc_loss(torch.log_softmax(x, 2), t, i, l, blank=2, reduction="none", zero_infinity=True), dict(x=frames),
     dict(t=integers([1, 0, 3, 3, 3, 3, 4]), i=integers([9, 5, 3, 9]), l=integers([2, 0, 4, 1])))
case("ctc_one", lambda x, t, i, l: F.ctc_loss(torch.log_softmax(x, 1), t, i, l), dict(x=frames[:, 0]), dict(t=integers([1, 1, 3]), i=integers([9]).reshape(()), l=integers([3]).reshape(())))

# ---- margins --------------------------------------------------------------------------------------------------------------------

c = 1.5 * wave(4, 3, k=4.2)
case("cosine_embedding", lambda a, b, t: F.cosine_embedding_loss(a, b, t, margin=0.2), dict(a=a, b=b), dict(t=signs))
case("cosine_embedding_none", lambda a, b, t: F.cosine_embedding_loss(a, b, t, reduction="none"), dict(a=a, b=b), dict(t=-signs))
case("margin_ranking", lambda a, b, t: F.margin_ranking_loss(a, b, t, margin=0.3), dict(a=a, b=b), dict(t=all_signs))
case("hinge_embedding", F.hinge_embedding_loss, dict(input=a), dict(target=all_signs))
case("triplet", F.triplet_margin_loss, dict(anchor=a, positive=b, negative=c))
case("triplet_swap", lambda a, b, c: F.triplet_margin_loss(a, b, c, margin=2.0, p=3, swap=True, reduction="none"), dict(a=a, b=b, c=c))
case("triplet_distance", lambda a, b, c: F.triplet_margin_with_distance_loss(a, b, c, distance_function=lambda x, y: 1 - F.cosine_similarity(x, y)), dict(a=a, b=b, c=c))
case("pairwise_distance", lambda a, b: F.pairwise_distance(a, b, p=1.5), dict(a=a, b=b))
case("cosine_similarity", lambda a, b: F.cosine_similarity(a, b, dim=0), dict(a=a, b=b))

# ---- pairs of a batch, from the papers' formulas --------------------------------------------------------------------------------------


def unit(x):
    return x / (x * x).sum(-1, keepdim=True).sqrt()


def of_first(logits):  # -log of the softmax's first entry
    return torch.logsumexp(logits, 1) - logits[:, 0]


case("info_nce", lambda a, b: (torch.logsumexp(unit(a) @ unit(b).T / 0.2, 1) - (unit(a) * unit(b)).sum(1) / 0.2).mean(), dict(a=a, b=b))
case("info_nce_shared", lambda a, b, n: of_first(torch.cat([(unit(a) * unit(b)).sum(1, keepdim=True), unit(a) @ unit(n).T], 1) / 0.1), dict(a=a, b=b, n=wave(5, 3, k=2)))
case("info_nce_own", lambda a, b, n: of_first(torch.cat([(unit(a) * unit(b)).sum(1, keepdim=True), torch.einsum("nd,nmd->nm", unit(a), unit(n))], 1) / 0.1).mean(),
     dict(a=a, b=b, n=wave(4, 2, 3, k=2)))


def nce(s, n, q, nq):
    k = n.shape[1]
    data, noise = torch.exp(s) / (torch.exp(s) + k * torch.exp(q)), torch.exp(n) / (torch.exp(n) + k * torch.exp(nq))
    return (-torch.log(data) - torch.log(1 - noise).sum(1)).mean()


case("nce", nce, dict(s=wave(4), n=wave(4, 3, k=1)), dict(q=-1 + wave(4, k=2), nq=-1 + wave(4, 3, k=3)))


def clip(a, b, scale):
    logits = scale * a @ b.T
    return (-torch.log(torch.softmax(logits, 1).diagonal()).mean() - torch.log(torch.softmax(logits, 0).diagonal()).mean()) / 2


case("clip", clip, dict(a=unit(a), b=unit(b), scale=torch.tensor(3.0)))


def siglip(a, b, scale, bias):
    z = 2 * torch.eye(len(a)) - 1
    return -torch.log(1 / (1 + torch.exp(-z * (scale * a @ b.T + bias)))).sum() / len(a)


case("siglip", siglip, dict(a=unit(a), b=unit(b), scale=torch.tensor(3.0), bias=torch.tensor(-1.0)))


# ---- residual log-likelihood: the couplings with a plain determinant --------------------------------------------------------------------


def network(weights, x, bounded):
    for i, (w, bias) in enumerate(weights):
        x = x @ w.T + bias
        if i < 2:
            x = torch.where(x > 0, x, 0.01 * x)
    return torch.tanh(x) if bounded else x


def rle(pred, sigma, target, weight=None, gaussian=False, **params):
    names = [(name, i) for name in "st" for i in range(4)]
    nets = {n: [(params[f"{n[0]}_{n[1]}_{j}_weight"], params[f"{n[0]}_{n[1]}_{j}_bias"]) for j in (0, 2, 4)] for n in names}
    error = (pred - target) / sigma
    z, log_det = error.reshape(-1, 2), torch.zeros(error.numel() // 2)
    for i in reversed(range(4)):
        mask = torch.tensor([0.0, 1.0] if i % 2 == 0 else [1.0, 0.0])
        same = mask * z
        s, t = network(nets["s", i], same, True) * (1 - mask), network(nets["t", i], same, False) * (1 - mask)
        z = (1 - mask) * (z - t) * torch.exp(-s) + same
        log_det = log_det - s.sum(1)
    log_flow = (-(z * z).sum(1) / 2 - math.log(2 * math.pi) + log_det).reshape(*pred.shape[:2], 1)
    log_q = -torch.log(sigma * math.sqrt(2 * math.pi)) - error**2 / 2 if gaussian else -torch.log(2 * sigma) - error.abs()
    losses = torch.log(sigma) - log_flow - log_q
    return (losses if weight is None else losses * weight).sum() / len(pred)


def rle_params():
    shapes = {0: (5, 2), 2: (5, 5), 4: (2, 5)}
    return {f"{n}_{i}_{j}_{kind}": 0.6 * wave(*(shape if kind == "weight" else shape[:1]), k=i + 0.3 * j + (n == "t"))
            for n in "st" for i in range(4) for j, shape in shapes.items() for kind in ("weight", "bias")}


poses = dict(pred=wave(2, 3, 2), sigma=0.6 + 0.4 * wave(2, 3, 2, k=1), target=0.3 * wave(2, 3, 2, k=2))
case("rle", rle, poses | rle_params())
case("rle_gaussian", lambda **x: rle(gaussian=True, **x), poses | rle_params(), dict(weight=(wave(2, 3, 1) > -0.5).double()))

save(pathlib.Path(__file__).parent / "layers_losses.safetensors")
