"""Say what an image shows, by an exported classifier, without torch: `python predict_onnx.py model.onnx image.png`."""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
about = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
image = Image.open(sys.argv[2]).convert("L" if about["channels"] == 1 else "RGB")
# (batch, channels, height, width), black 0 and white 1; any height and width.
pixels = np.atleast_3d(np.asarray(image, np.float32) / 255).transpose(2, 0, 1)[None]
probabilities, locations, scales = session.run(None, {"images": pixels})
for (x, y), scale, after in zip(locations[0], scales[0], probabilities[0], strict=True):
    # A glimpse is a square; the image's first and last pixels have their centres at -1 and 1.
    across, down = (x + 1) / 2 * (image.width - 1), (y + 1) / 2 * (image.height - 1)
    best = after.argmax()
    print(
        f"{scale * about['patch']} pixels around {across:.1f}, {down:.1f}: {about['names'][best]} ({after[best]:.1%})"
    )
