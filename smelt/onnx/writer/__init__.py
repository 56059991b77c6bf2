"""Writing ONNX: a module traced in evaluation mode in; a file that other runtimes read out."""
