# `make demo`, `make test` and `make check` do all set-up themselves; only Python 3.10 or newer is needed.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
TRITON := .venv/triton
CHECKED := out/check-words/manifest.json

# Several programs share the cores, so waiting threads must not spin.
export OMP_WAIT_POLICY := PASSIVE
export HF_HUB_DISABLE_PROGRESS_BARS := 1

.PHONY: demo test check lint site setup conformance conformance-1024 engines-1024 soak fuzz fleet clean

demo: setup
	$(BIN)/sam2edge export samples/nano out/nano --clip samples/clip.mp4 --words samples/words
	$(BIN)/python samples/demo.py out/nano out

# Two processes for two cores, with a thread each; the tests of a file stay together, because they share exports, and
# files come in the order of tests/conftest.py.
test: setup lint $(TRITON)/.installed
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

# The loop of work, 70 to 90 seconds: all but what takes long of the unit tests, on bundles that are exported again
# only when what makes them has changed.
check: lint $(CHECKED)
	SAM2EDGE_NANO=$(CURDIR)/out/check SAM2EDGE_SHAPES=$(CURDIR)/out/check-words OMP_NUM_THREADS=1 \
	    $(BIN)/pytest --quiet --numprocesses 2 --dist loadfile tests/unit $(LONG:%=--ignore=tests/unit/%)

LONG := bench calibration/int8 calibration/measure/test_comparison.py calibration/measure/test_recorder.py \
    calibration/test_checked_build.py calibration/test_choose.py commands/test_label.py commands/test_verify.py \
    commands/test_words.py engines/estimate/test_devices.py engines/test_build.py engines/test_compiler.py \
    engines/test_float_weights.py engines/test_low_precision.py engines/test_rewrites.py engines/test_rtx.py \
    engines/test_word_detector.py export labelling/test_labeller.py labelling/test_ray.py labelling/test_runs.py \
    labelling/test_scheduler.py runtime/backends/test_cuda.py runtime/backends/test_device.py \
    runtime/backends/test_onnx_cuda.py runtime/backends/test_runtime_cache.py runtime/backends/test_tensorrt.py \
    runtime/media/sources/test_rtsp.py runtime/media/test_sinks.py runtime/video/test_faults.py \
    runtime/video/test_follower.py runtime/video/test_frames.py runtime/video/test_predictor.py \
    runtime/video/test_soak.py runtime/video/test_tracker_memory.py runtime/words/test_detector.py samples \
    serving/test_models.py test_gpu_steps.py test_isolation.py test_wheel.py ui/test_page.py

$(CHECKED): $(INSTALLED) $(wildcard export/*.py export/source/*.py src/sam2edge/bundle/*.py) samples/nano/model.safetensors
	$(BIN)/sam2edge export samples/nano out/check
	$(BIN)/sam2edge export samples/nano out/check-words --words samples/words

# mypy runs on Python 3.11 and newer: the last numpy for 3.10 has too few types for it.
lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/python -c 'import sys; sys.exit(sys.version_info >= (3, 11))' || $(BIN)/mypy

# The documentation as a site in out/site.
site: setup
	$(BIN)/mkdocs build

# Every session with every family of models, to its end, and every graph in every precision: five minutes.
conformance: setup
	SAM2EDGE_CONFORMANCE=1 OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile tests/conformance \
	    tests/unit/engines/test_compiler.py tests/unit/engines/test_low_precision.py

# The randomly initialised tiny at its full size: 20 minutes of processor time, 10 GiB.
conformance-1024: setup
	SAM2EDGE_TINY_SIZE=1024 $(BIN)/pytest tests/conformance -k random_tiny

# Random models at their full size through NVIDIA's compiler, which needs no GPU: Linux on x86-64.
RANDOM := tiny large edgetam efficienttam-ti efficienttam-ti_1
engines-1024: $(RANDOM:%=out/%-1024/manifest.json)
	$(BIN)/python -m tools.engines_1024 $(RANDOM:%=out/%-1024)

out/%-1024/manifest.json: | setup
	$(BIN)/sam2edge export $$($(BIN)/python -m tests.models $* 1024 out/$*-1024.model) out/$*-1024

# 20,000 frames: ten minutes on an idle machine.
soak: setup
	SAM2EDGE_SOAK_FRAMES=20000 $(BIN)/pytest -s tests/unit/runtime/video/test_soak.py tests/unit/runtime/video/test_faults.py

# 500 spoiled inputs of all kinds: a few minutes.
fuzz: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz 500

# The long forms of what goes beyond one machine, with a real Ray and a real Triton: three minutes.
fleet: setup $(TRITON)/.installed
	SAM2EDGE_FLEET=1 OMP_NUM_THREADS=1 timeout 900 $(BIN)/pytest tests/unit/labelling tests/unit/serving tests/serving

setup: $(INSTALLED)

# A Triton server for tests/serving, in an environment of its own, since it takes numpy 1 only. 430 MB, 20 seconds.
$(TRITON)/.installed: tests/serving/requirements.txt | $(INSTALLED)
	$(BIN)/python -m venv --clear --without-pip $(TRITON)
	$(BIN)/pip install --quiet --no-compile --no-deps --ignore-installed --prefix $(TRITON) --requirement $<
	touch $@

# Without --no-compile, half of the time is spent on modules that nothing imports.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt torch
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable '.[export,dev,docs]'
	$(BIN)/pip install --quiet --no-compile --no-deps --constraint constraints.txt timm  # without torchvision
	touch $@

clean:
	rm -rf .venv build dist out src/sam2edge.egg-info
