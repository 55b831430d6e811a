"""Pictures and networks: decoding, features, separation, augmentation, models."""

import os

# TensorFlow reads its log level once, when it is imported; below errors it tells of CPU instructions only.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
