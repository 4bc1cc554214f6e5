"""What a user would run instead, timed: torch, transformers, TRL and Liger. One request as JSON on stdin, one answer as JSON on stdout:
seconds of each repetition, and what was computed, to be held against rank-grpo's own result before a time counts."""

import ctypes
import gc
import json
import os
import resource
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F


def finish():
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def clock(run, seconds, least=3):
    run()  # warms up; compiles
    finish()
    times = []
    while len(times) < least or sum(times) < seconds:
        started = time.perf_counter()
        run()
        finish()
        times.append(time.perf_counter() - started)
    return times


def best(ways, seconds):
    """The fastest of several ways to compute the same, and its name."""
    timed = {}
    for name, run in ways.items():
        try:
            timed[name] = clock(run, seconds)
        except Exception as error:  # a way that this build of torch cannot go, such as torch.compile without a compiler
            print(f"{name}: {error}", file=sys.stderr)
    name = min(timed, key=lambda way: sorted(timed[way])[len(timed[way]) // 2])
    return {"way": name, "seconds": timed[name]}


def peak_of(run, device):
    """Peak memory of a call, its results included: in all, and above what is held before it (what earlier calls freed goes back first)."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        run()
        peak = torch.cuda.max_memory_allocated()
        return {"peakMiB": peak / 2**20, "extraMiB": (peak - held) / 2**20}

    def resident(key):
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith(key))

    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts anew
    held = resident("VmRSS")
    run()
    peak = resident("VmHWM")
    return {"peakMiB": peak / 1024, "extraMiB": (peak - held) / 1024}


def logits(request):
    """Log-probs of given tokens and the gradient by the logits [T, V] of their weighted sum."""
    T, V = request["T"], request["V"]
    x = torch.from_numpy(np.fromfile(request["logits"], dtype=np.float32).reshape(T, V)).requires_grad_(True)
    target = torch.tensor(request["targets"])
    slope = torch.tensor(request["slopes"])

    def gather(x, target):
        return torch.log_softmax(x, -1).gather(-1, target[:, None])[:, 0]

    def minus_lse(x, target):
        return x.gather(-1, target[:, None])[:, 0] - torch.logsumexp(x, -1)

    def cross_entropy(x, target):
        return -F.cross_entropy(x, target, reduction="none")

    def whole(form):
        def run():
            x.grad = None
            y = form(x, target)
            y.backward(slope)
            return y

        return run

    def pieces(form, rows=64):
        grad = torch.empty_like(x)

        def run():
            out = []
            for i in range(0, T, rows):
                part = x.detach()[i : i + rows].requires_grad_(True)
                y = form(part, target[i : i + rows])
                (grad[i : i + rows],) = torch.autograd.grad(y, part, slope[i : i + rows])
                out.append(y.detach())
            return torch.cat(out)

        return run

    ways = {}
    for form in (gather, minus_lse, cross_entropy):
        ways[form.__name__] = whole(form)
        ways[f"{form.__name__} by 64 rows"] = pieces(form)
        ways[f"{form.__name__}, torch.compile"] = whole(torch.compile(form))
    answer = best(ways, request["seconds"])
    y = ways["gather"]()
    return {**answer, "logprobs": y.tolist(), "gradient": x.grad[0].tolist()}


def head(request):
    """Log-probs of given tokens from hidden [T, C] x head [V, C]."""
    T, C, V = request["T"], request["C"], request["V"]
    dtype = torch.bfloat16 if request["dtype"] == "bf16" else torch.float32
    h = torch.from_numpy(np.fromfile(request["hidden"], dtype=np.float32).reshape(T, C)).to(dtype)
    W = torch.from_numpy(np.fromfile(request["head"], dtype=np.float32).reshape(V, C)).to(dtype)
    target = torch.tensor(request["targets"])

    def form(h, target):
        x = F.linear(h, W).float()
        return x.gather(-1, target[:, None])[:, 0] - torch.logsumexp(x, -1)

    def pieces(rows):
        return lambda: torch.cat([form(h[i : i + rows], target[i : i + rows]) for i in range(0, T, rows)])

    compiled = torch.compile(form)
    with torch.no_grad():
        ways = {"whole": lambda: form(h, target), "by 128 rows": pieces(128), "torch.compile": lambda: compiled(h, target)}
        answer = best(ways, request["seconds"])
        return {**answer, "logprobs": form(h, target).tolist()}


def loss(request):
    """Clipped GRPO over B lists of equally many tokens, old log-probs given and no KL, with its gradients by hidden [T, C] and head [V, C]:
    by Liger's fused loss, or by torch. These and the caller's own (`ours`: the loss, and files with the first rows of each gradient) are held
    against float64: the largest error, a gradient's in parts of its largest value."""
    B, T, C, V = request["B"], request["T"], request["C"], request["V"]
    low, high = request["clip"]
    device = torch.device(request.get("device") or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = torch.bfloat16 if request["dtype"] == "bf16" else torch.float32

    def matrix(path):
        return torch.from_numpy(np.fromfile(path, dtype=np.float32).reshape(-1, C)).to(device)

    def parameter(path, rows):
        held = matrix(path).to(dtype)  # a file of fewer rows holds them over and over
        return held.repeat(-(-rows // len(held)), 1)[:rows].clone().requires_grad_(True)

    h, W = parameter(request["hidden"], T), parameter(request["head"], V)
    target = torch.tensor(request["targets"], device=device)
    old = torch.tensor(request["old"], device=device)
    advantage = torch.tensor(request["advantages"], device=device)  # of each list
    of_token = advantage.repeat_interleave(T // B)

    def clipped(logp, old, A):
        ratio = torch.exp(logp - old)
        return -torch.min(ratio * A, ratio.clamp(1 - low, 1 + high) * A).sum() / T

    def form(h, W, target, old, A):
        x = F.linear(h, W).float()
        return clipped(x.gather(-1, target[:, None])[:, 0] - torch.logsumexp(x, -1), old, A)

    def with_gradients(value, h=h):
        return (value.detach(), *torch.autograd.grad(value, (h, W)))

    def liger(**options):
        from liger_kernel.chunked_loss import LigerFusedLinearGRPOLoss

        fused = LigerFusedLinearGRPOLoss(
            loss_type="grpo", epsilon_low=low, epsilon_high=high, beta=0.0, use_ref_model=False, **options
        )
        lists = (target.view(B, -1), torch.ones(B, T // B, device=device), advantage)
        return lambda: with_gradients(fused(h.view(B, -1, C), W, *lists, old_per_token_logps=old.view(B, -1))[0])

    def pieces(rows=128):
        total, dh, dW = torch.zeros((), device=device), torch.empty_like(h), torch.zeros_like(W)
        for i in range(0, T, rows):
            part = slice(i, i + rows)
            x = h.detach()[part].requires_grad_(True)
            value, dh[part], dw = with_gradients(form(x, W, target[part], old[part], of_token[part]), x)
            total += value
            dW += dw
        return total, dh, dW

    inputs = (h, W, target, old, of_token)
    compiled = torch.compile(form)
    if request["peer"] == "liger":
        ways = {
            "Liger": liger(),
            "Liger, all lists in one chunk": liger(chunk_size=B),
            "Liger, compiled=False": liger(compiled=False),
            "Liger, all lists in one chunk, compiled=False": liger(chunk_size=B, compiled=False),
        }
    else:
        ways = {
            "logits whole": lambda: with_gradients(form(*inputs)),
            "logits whole, torch.compile": lambda: with_gradients(compiled(*inputs)),
            "by 128 rows": pieces,
        }
    answer = best(ways, request["seconds"])
    run = ways[answer["way"]]
    answer |= peak_of(run, device)
    theirs = run()

    h64, W64 = h.detach().double(), W.detach().double()
    parts = [slice(i, i + 128) for i in range(0, T, 128)]
    logp = torch.cat([torch.log_softmax(h64[part] @ W64.T, -1).gather(-1, target[part, None])[:, 0] for part in parts])
    exact = clipped(logp.requires_grad_(True), old, of_token)
    (slope,) = torch.autograd.grad(exact, logp)
    dh, dW = torch.empty_like(h64), torch.zeros_like(W64)
    for part in parts:
        dx = -slope[part, None] * torch.softmax(h64[part] @ W64.T, -1)
        dx.scatter_add_(-1, target[part, None], slope[part, None])
        dh[part] = dx @ W64
        dW += dx.T @ h64[part]

    def error(value, *gradients):
        differences = [(got - wanted[: len(got)]).abs().max() / wanted.abs().max() for got, wanted in zip(gradients, (dh, dW))]
        return float(np.max([abs(float(value) - exact.item()), *map(float, differences)]))  # NaN where one is

    ours = request["ours"]
    errors = {"ours": error(ours["loss"], matrix(ours["dhidden"]), matrix(ours["dhead"])), "theirs": error(*theirs)}
    if not all(error <= request["tolerance"] for error in errors.values()):
        sys.exit(f"Expected loss and gradients within {request['tolerance']} of float64, got {errors}.")
    return {**answer, "errors": errors}


def load(request):
    from transformers import AutoModelForCausalLM

    dtype = torch.bfloat16 if request["dtype"] == "bf16" else torch.float32
    return AutoModelForCausalLM.from_pretrained(request["model"], dtype=dtype).eval()


def generation(request):
    """Sampling of equally long completions behind prompts of token ids; and greedy ids, to be compared."""
    model = load(request)
    ids = torch.tensor(request["prompts"]).repeat_interleave(request["group"], 0)
    n = request["tokens"]

    def generate(ids, **settings):
        return model.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, min_new_tokens=n, max_new_tokens=n, **settings)

    with torch.no_grad():
        times = clock(lambda: generate(ids, do_sample=True, top_k=0, top_p=1.0), 0, least=2)
        greedy = generate(ids[:1], do_sample=False)[0, ids.shape[1] :]
    return {"way": "transformers generate", "seconds": times, "greedy": greedy.tolist()}


def llama(request):
    """The same by a llama.cpp server on the GGUF as it is (quantised weights), one request for each row, all at once."""
    import threading
    import urllib.request

    import xllamacpp

    rows = len(request["prompts"]) * request["group"]
    length = max(map(len, request["prompts"])) + request["tokens"]
    params = xllamacpp.CommonParams()
    params.model.path = request["gguf"]
    params.n_parallel = rows
    params.n_ctx = rows * (length + 32)
    params.cpuparams.n_threads = request["threads"]
    server = xllamacpp.Server(params)

    def complete(prompt, **settings):
        body = {"prompt": prompt, "n_predict": request["tokens"], "ignore_eos": True, "cache_prompt": False, "return_tokens": True, **settings}
        headers = {"Content-Type": "application/json"}
        call = urllib.request.Request(f"{server.listening_address}/completion", json.dumps(body).encode(), headers)
        return json.load(urllib.request.urlopen(call))

    def batch():
        threads = [
            threading.Thread(target=complete, args=(prompt,), kwargs={"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0})
            for prompt in request["prompts"]
            for _ in range(request["group"])
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return {
        "way": "llama.cpp server, quantised",
        "seconds": clock(batch, 0, least=2),
        "greedy": complete(request["prompts"][0], temperature=0.0)["tokens"],
    }


def grpo(request):
    """Whole GRPO steps by TRL: sampling, rewards, reference, update."""
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    tokenizer = AutoTokenizer.from_pretrained(request["model"])
    prompts = [tokenizer.decode(ids) for ids in request["prompts"]]
    times, started = [], [0.0]

    class Clock(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            started[0] = time.perf_counter()

        def on_step_end(self, args, state, control, **kwargs):
            times.append(time.perf_counter() - started[0])

    def reward(completions, **kwargs):
        return [float(len(set(completion.split())) % 7) for completion in completions]

    config = GRPOConfig(
        output_dir=request["scratch"],
        use_cpu=True,
        bf16=request["dtype"] == "bf16",
        per_device_train_batch_size=request["rows"],
        gradient_accumulation_steps=request["group"] * len(prompts) // request["rows"],
        num_generations=request["group"],
        max_completion_length=request["tokens"],
        generation_kwargs={"min_new_tokens": request["tokens"]},
        temperature=1.0,
        beta=0.001,
        learning_rate=1e-6,
        max_steps=request["steps"],
        save_strategy="no",
        report_to=[],
        gradient_checkpointing=False,
        disable_tqdm=True,
    )
    trainer = GRPOTrainer(
        model=request["model"], reward_funcs=reward, args=config, train_dataset=Dataset.from_dict({"prompt": prompts}), callbacks=[Clock()]
    )
    begun = time.perf_counter()
    trainer.train()
    log = [entry for entry in trainer.state.log_history if "completions/mean_length" in entry]
    return {
        "way": "TRL GRPOTrainer",
        "seconds": times,
        "total": time.perf_counter() - begun,
        "meanLength": log[-1]["completions/mean_length"] if log else None,
    }


def main():
    request = json.load(sys.stdin)
    torch.set_num_threads(request["threads"])
    torch.manual_seed(1)
    out = os.dup(1)
    os.dup2(2, 1)  # libraries that print to stdout must not spoil the answer
    answer = globals()[request["work"]](request)
    answer.setdefault("peakMiB", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    import importlib.metadata as versions

    answer["versions"] = {name: versions.version(name) for name in ("torch", "transformers", "trl", "xllamacpp", "liger-kernel")}
    os.write(out, json.dumps(answer).encode())


main()
