"""Asks a server of the Open Inference Protocol with Triton's own client, and prints what it got as JSON."""

import json
import sys

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

address, model = sys.argv[1:]
client = triton.InferenceServerClient(url=address)
ready = [client.is_server_live(), client.is_server_ready(), client.is_model_ready(model)]
metadata = client.get_model_metadata(model)
output = metadata["outputs"][0]["name"]
pixels = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 64)


def ask(binary, outputs=None, compression=None):
    tensor = triton.InferInput("pixels", [1, 64], "FP32")
    tensor.set_data_from_numpy(pixels, binary_data=binary)
    answer = client.infer(
        model,
        [tensor],
        outputs=outputs,
        request_id="7",
        request_compression_algorithm=compression,
        timeout=20_000_000,
    )
    assert answer.get_response()["id"] == "7"
    return answer.as_numpy(output).tolist()


answers = {
    "binary": ask(True),
    "json": ask(False, [triton.InferRequestedOutput(output, binary_data=False)]),
    "asked": ask(True, [triton.InferRequestedOutput(output, binary_data=True)]),
    "gzip": ask(True, compression="gzip"),
    "deflate": ask(False, compression="deflate"),
}
try:
    ask(True, [triton.InferRequestedOutput("nothing")])
    refused = None
except InferenceServerException as error:
    refused = error.message()
print(json.dumps({"answers": answers, "ready": ready, "metadata": metadata, "refused": refused}))
