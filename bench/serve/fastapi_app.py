"""The usual Python stack, unsigned: one request, one run; bytes in, bytes out."""

import os

import numpy
import onnxruntime
from fastapi import FastAPI, Request, Response

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
name = session.get_inputs()[0].name
app = FastAPI()


@app.post("/infer")
async def infer(request: Request) -> Response:
    body = await request.body()
    pixels = numpy.frombuffer(body, dtype=numpy.float32).reshape(1, -1)
    (output,) = session.run(None, {name: pixels})
    return Response(output.tobytes(), media_type="application/octet-stream")
