"""What loggers write, read back by the programs it is for: TensorBoard and a real MLflow server.

Not part of the test suite: needs Python with `pip install tensorboard mlflow`. From the repository's root:

    python test/peers/loggers.py
"""

import json
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

from mlflow.tracking import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
folder = pathlib.Path(tempfile.mkdtemp(prefix="rank-grpo-peers-"))
url = f"http://127.0.0.1:{port}"
server = subprocess.Popen(
    [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
     "--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "artifacts")],
    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
try:
    for _ in range(240):
        try:
            urllib.request.urlopen(f"{url}/health", timeout=1)
            break
        except OSError:
            time.sleep(0.5)
    run = folder / "run"
    subprocess.run(["npx", "tsx", "test/peers/loggers.ts", str(run), url], check=True)
    expected = json.loads((run / "expected.json").read_text())

    # TensorBoard: every step once, also those that the resumed run did again
    board = EventAccumulator(str(run), size_guidance={"scalars": 0, "histograms": 0, "tensors": 0})
    board.Reload()
    scalars = board.Tags()["scalars"]
    for tag in ("reward/mean", "policy/loss", "validation/ndcg@10"):
        wanted = [(line["step"], line[tag]) for line in expected if tag in line]
        found = [(event.step, event.value) for event in board.Scalars(tag)]
        assert [s for s, _ in found] == [s for s, _ in wanted], tag
        assert all(abs(a - b) <= 1e-6 * max(abs(a), 1e-9) for (_, a), (_, b) in zip(found, wanted)), tag
    histograms = board.Histograms("reward/by_rank")
    assert [h.step for h in histograms] == [line["step"] for line in expected]
    assert list(histograms[-1].histogram_value.bucket) == expected[-1]["reward/by_rank"]
    [text] = board.Tensors("samples/lists")
    assert "Äther (1999)" in text.tensor_proto.string_val[0].decode()
    assert board.SummaryMetadata("samples/lists").plugin_data.plugin_name == "text"

    # MLflow: one finished run with its parameters, every metric of every step
    client = MlflowClient(url)
    experiment = client.get_experiment_by_name("rank-grpo")
    [stored] = client.search_runs([experiment.experiment_id])
    assert stored.info.status == "FINISHED" and stored.info.run_name == "peer", stored.info
    assert stored.data.params["seed"] == "1" and stored.data.tags["stage"] == "train"
    for name, key in (("reward/mean", "reward/mean"), ("validation/ndcg@10", "validation/ndcg_at_10")):
        history = {m.step: m.value for m in client.get_metric_history(stored.info.run_id, key)}
        assert history == {line["step"]: line[name] for line in expected if name in line}, key
    assert len(client.get_metric_history(stored.info.run_id, "reward/by_rank/03")) >= len(expected)
    print(f"tensorboard: {len(scalars)} scalar tags, {len(histograms)} histograms; mlflow: run {stored.info.run_id}; all as written")
finally:
    server.terminate()
    server.wait()
