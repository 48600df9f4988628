"""What runs a model: the only modules that import torch and openvino."""
