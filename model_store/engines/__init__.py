"""The engines that run models: the only modules that import torch and openvino."""
