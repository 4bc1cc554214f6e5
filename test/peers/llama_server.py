# A llama.cpp server for test/teacher.test.ts: pip install xllamacpp, then
#   python test/peers/llama_server.py <model.gguf> <seconds> &
# and run the test with RANK_GRPO_LLAMA_URL set to the printed address.
import sys
import time

import xllamacpp

model, seconds = sys.argv[1], float(sys.argv[2])
params = xllamacpp.CommonParams()
params.model.path = model
params.n_ctx = 1024
server = xllamacpp.Server(params)
print(f"{server.listening_address}/v1", flush=True)
time.sleep(seconds)
