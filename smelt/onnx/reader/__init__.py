"""Reading ONNX: a file from anywhere in; a module that runs, compiles and trains as any other out."""
