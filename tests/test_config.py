"""Configuration files, overrides, validation."""

import pytest
import yaml

from vireid_fast.config import Config, ConfigError, config_from_dict, load_config, presets


def _write(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_are_csdn_as_published():
    config = Config()
    assert (config.sampler.identities, config.sampler.instances) == (8, 4)
    assert config.backend == "fused"
    visual, loss = config.csdn.visual, config.csdn.loss
    assert (visual.lr, visual.head_lr_factor, visual.weight_decay) == (3e-4, 2.0, 5e-4)
    assert (visual.milestones, visual.warmup_epochs, visual.epochs) == ((40, 70), 10, 120)
    assert (loss.msel, loss.wrt, loss.visible_text, loss.infrared_text) == (1, 0.15, 0.05, 0.1)
    assert loss.wrt_parity and loss.contrast == 0 and loss.label_smoothing == 0


@pytest.mark.parametrize("name", presets())
def test_presets_load_and_say_how_to_launch(name):
    config = load_config(name)
    assert config.method == name.split("/")[0]
    from importlib import resources

    folder, file = name.split("/")
    text = (resources.files("vireid_fast.configs") / folder / f"{file}.yaml").read_text()
    assert text.startswith(f"# vireid train --config {name}")


def test_overrides_win_and_scientific_numbers_are_numbers(tmp_path):
    path = _write(tmp_path, "csdn:\n  visual: {lr: 1e-3, milestones: [1, 2]}\n")
    config = load_config(path, ["seed=7", "csdn.visual.lr=2e-4", "data.root=/x"])
    assert (config.seed, config.csdn.visual.lr, config.data.root) == (7, 2e-4, "/x")
    assert config.csdn.visual.milestones == (1.0, 2.0)


def test_resolved_configuration_round_trips(tmp_path):
    config = load_config("csdn/sysu_mm01", ["seed=3"])
    config.save(tmp_path / "saved.yaml")
    assert load_config(tmp_path / "saved.yaml") == config
    assert config_from_dict(yaml.safe_load((tmp_path / "saved.yaml").read_text())) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sed: 1", r"unknown key sed\. The nearest key is seed"),
        ("csdn: {loss: {mesl: 1}}", r"unknown key csdn\.loss\.mesl\. .* csdn\.loss\.msel"),
        ("seed: one", r"seed must be a whole number, got 'one'"),
        ("seed: 1.5", r"seed must be a whole number, got 1.5"),
        ("seed: true", r"seed must be a whole number, got True"),
        ("seed: -1", r"seed must be 0 or more, got -1"),
        ("csdn: {visual: {lr: fast}}", r"csdn\.visual\.lr must be a number, got 'fast'"),
        ("csdn: {visual: {lr: .inf}}", r"csdn\.visual\.lr must be finite"),
        ("csdn: {text_terms: 1}", r"csdn\.text_terms must be true or false, got 1"),
        ("data: sysu", r"data must be a section of keys, got 'sysu'"),
        ("data: {train_split: test}", r"data\.train_split must be .*'train\+auxiliary'\]"),
        ("method: agw", r"method must be one of \[.*'csdn'.*\], got 'agw'"),
        ("clip: {stem_relu: none}", r"clip\.stem_relu must be"),
        ("evaluation: {rerank: [20, 6]}", r"evaluation\.rerank must be empty or \[k1"),
        ("evaluation: {rerank: [20.5, 6, 0.3]}", r"with whole k1 and k2"),
        ("evaluation: {rerank: [0, 6, 0.3]}", r"evaluation\.rerank must have k1 and k2"),
        ("evaluation: {rerank: [20, 0, 0.3]}", r"evaluation\.rerank must have k1 and k2"),
        ("evaluation: {rerank: [20, 6, 1.5]}", r"evaluation\.rerank must .* lambda in \[0, 1\]"),
        ("evaluation: {shots: 0}", r"evaluation\.shots must be positive, got 0"),
        ("clip: {activation: relu}", r"clip\.activation must be one of .*, got 'relu'"),
        ("threads: -1", r"threads must be 0 or more, got -1"),
        ("backend: kernel", r"backend must be one of \['fused', 'reference'\], got 'kernel'"),
        ("data: {height: 0}", r"data\.height must be positive, got 0"),
        ("csdn: {context_length: 0}", r"csdn\.context_length must be positive, got 0"),
        ("csdn: {dropout: 1}", r"csdn\.dropout must lie in \[0, 1\), got 1"),
        ("csdn: {loss: {msel: -1}}", r"csdn\.loss\.msel must be 0 or more, got -1"),
        ("csdn: {loss: {label_smoothing: 2}}", r"csdn\.loss\.label_smoothing must lie in"),
        ("csdn: {prompts: {epochs: -1}}", r"csdn\.prompts\.epochs must be 0 or more, got -1"),
        ("csdn: {fusion: {kind: sgd}}", r"csdn\.fusion\.kind must be one of .*, got 'sgd'"),
        ("csdn: {visual: {warmup_epochs: -1}}", r"csdn\.visual\.warmup_epochs must be 0 or more"),
        ("csdn: {visual: {milestones: [3, -1]}}", r"csdn\.visual\.milestones must be 0 or more"),
        ("csdn: {text_terms: false, visual: {epochs: 0}}", r"config: csdn\.visual\.epochs must be"),
        ("csdn: {prompts: {epochs: 0}, fusion: {epochs: 0}, visual: {epochs: 0}}",
         r"csdn\.prompts\.epochs, csdn\.fusion\.epochs, csdn\.visual\.epochs must be positive"),
        ("pretrain: {pair_weight: -1}", r"pretrain\.pair_weight must be 0 or more, got -1"),
        ("evaluation: {rerank: 20}", r"evaluation\.rerank must be a list, got 20"),
        ("[1, 2]", r"hold a mapping of keys, got list"),
        ("a: [", r"must be YAML"),
    ],
)
def test_bad_values_name_the_key(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_config(_write(tmp_path, text))


def test_bad_overrides_and_files():
    with pytest.raises(ConfigError, match=r"override must look like section\.key=value"):
        load_config("csdn/sysu_mm01", ["seed"])
    with pytest.raises(ConfigError, match=r"unknown key csdn\.visual\.epoch"):
        load_config("csdn/sysu_mm01", ["csdn.visual.epoch=1"])
    with pytest.raises(ConfigError, match="Did you mean 'csdn/sysu_mm01'"):
        load_config("csdn/sysu_mm1")


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "c.yaml").write_bytes(b"\x89PNG\r\n\x1a\n\xff")
    with pytest.raises(ConfigError, match=r"c\.yaml must be YAML, got .*decode"):
        load_config(tmp_path / "c.yaml")


def test_yaml_cannot_run_code(tmp_path):
    path = _write(tmp_path, "seed: !!python/object/apply:os.getpid []\n")
    with pytest.raises(ConfigError, match="must be YAML"):
        load_config(path)
