"""Settings from files and flags, and the messages for wrong ones."""

import pytest

from masktas import config
from masktas.config import (
    AllSettings,
    SearchSettings,
    Settings,
    SupernetSettings,
    TeacherSettings,
    ValidateSettings,
    load,
    resolve,
    searching,
    validate,
)
from masktas.config import settings as settings_module
from masktas.errors import BudgetError, ConfigError
from masktas.space import Budget, Costs, SearchSpace

KINDS = list(
    dict.fromkeys(
        kind
        for module in (settings_module, searching)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Settings)
    )
)
SECTIONS = {
    field.alias or name: field.annotation for name, field in AllSettings.model_fields.items()
}
KEYS = [(section, key) for section, kind in SECTIONS.items() for key in kind.model_fields]


@pytest.fixture
def file(tmp_path):
    """Return a function that writes a configuration file."""

    def write(text):
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return path

    return write


# --- every setting


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_setting_has_a_sentence(kind):
    assert kind.__doc__
    for name, field in kind.model_fields.items():
        if kind is AllSettings:
            assert issubclass(field.annotation, Settings)
        else:
            assert field.description, name
            assert field.description.endswith("."), name


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_setting_has_a_default_within_its_range(kind):
    settings = kind()
    assert validate(kind, settings.model_dump(mode="json")) == settings


def test_every_class_of_settings_is_public_and_a_section():
    assert {kind.__name__ for kind in KINDS} <= set(config.__all__)
    assert (
        " ".join(SECTIONS)
        == "data runtime teacher supernet search refine distill finetune segment validate"
    )


def test_the_papers_values():
    assert TeacherSettings().mask_ratio == 0.75
    for settings in (SupernetSettings(), SearchSettings(), AllSettings().validation):
        assert settings.ratio_for(196) == 0.9
    assert SupernetSettings().epochs == 100
    assert SupernetSettings().warmup_share == 0.2
    assert SupernetSettings().weight_decay == 0.05
    assert SupernetSettings().decoder_depth == 2


def test_settings_never_change():
    with pytest.raises(ValueError, match="frozen"):
        TeacherSettings().epochs = 3


# --- files


def test_no_file_is_no_sections():
    assert load(None) == {}


def test_a_file_gives_only_what_it_says(file):
    path = file('[teacher]\nepochs = 5\ncrop_scale = [0.5, 1]\n[search]\nmax_params = "6M"\n')
    assert load(path) == {
        "teacher": {"epochs": 5, "crop_scale": [0.5, 1]},
        "search": {"max_params": "6M"},
    }
    assert load(str(path)) == load(path)


@pytest.mark.parametrize(("content", "words"), [(b"[teacher", "not TOML"), (b"\xff", "not TOML")])
def test_a_file_that_is_no_toml(tmp_path, content, words):
    (tmp_path / "mine.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=f"mine.toml: {words}"):
        load(tmp_path / "mine.toml")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"mine\.toml: cannot be read \(No such file"):
        load(tmp_path / "mine.toml")


# --- unknown keys


@pytest.mark.parametrize(
    ("text", "unknown", "meant"),
    [
        ("[teacher]\nepoch = 3", "teacher.epoch", "teacher.epochs"),
        ("[supernet]\nepoch = 3", "supernet.epoch", "supernet.epochs"),
        ("[search]\ngeneration = 3", "search.generation", "search.generations"),
        ("[search]\ntemprature = 0.1", "search.temprature", "search.temperature"),
        ("[data]\nimagesize = 32", "data.imagesize", "data.image_size"),
        ("[serch]\npopulation = 3", "serch", "search"),
        ("[fine-tune]\nepochs = 3", "fine-tune", "finetune"),
    ],
)
def test_an_unknown_key_is_suggested(file, text, unknown, meant):
    path = file(text)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value) == f"{path}: Unknown key {unknown!r}, did you mean {meant!r}?"


@pytest.mark.parametrize(
    ("section", "key"), [(section, key) for section, key in KEYS if len(key) > 3]
)
def test_a_letter_left_out_of_any_key_is_found(section, key):
    middle = len(key) // 2
    typo = key[:middle] + key[middle + 1 :]
    with pytest.raises(ConfigError, match=f"'{section}.{typo}', did you mean '{section}.{key}'?"):
        validate(AllSettings, {section: {typo: 1}})


def test_a_key_like_no_other_lists_what_is_known():
    with pytest.raises(ConfigError, match=r"Unknown key 'zzzz': known are .*epochs"):
        resolve(TeacherSettings, {"zzzz": 1})


# --- wrong values


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        ('[teacher]\nepochs = "many"', "teacher.epochs", "is 'many': .*integer"),
        ("[teacher]\nepochs = 1.5", "teacher.epochs", r"is 1\.5: .*integer"),
        ("[teacher]\nepochs = [3]", "teacher.epochs", r"is \[3\]: .*integer"),
        ("[teacher]\nepochs = true", "teacher.epochs", "is True"),
        ("[teacher]\nepochs = 0", "teacher.epochs", "is 0: .*greater than 0"),
        ("[teacher]\nlr = 0", "teacher.lr", "is 0: .*greater than 0"),
        ("[teacher]\nlr = nan", "teacher.lr", "is nan"),
        ("[teacher]\nlr = inf", "teacher.lr", "is inf"),
        ("[teacher]\nweight_decay = -0.1", "teacher.weight_decay", "greater than or equal to 0"),
        ("[teacher]\nwarmup_share = 1", "teacher.warmup_share", "less than 1"),
        ("[teacher]\ncrop_scale = [0.9, 0.2]", "teacher.crop_scale", "least <= most"),
        ("[teacher]\ncrop_scale = [0, 1]", "teacher.crop_scale", "0 < least"),
        ("[teacher]\ncrop_scale = 0.5", "teacher.crop_scale", "is 0.5: .*tuple"),
        ('[teacher]\nflip = "perhaps"', "teacher.flip", "is 'perhaps': .*boolean"),
        ("[supernet]\nmask_ratio = 1", "supernet.mask_ratio", "is 1: .*less than 1"),
        ("[supernet]\nmask_ratio = 0", "supernet.mask_ratio", "is 0: .*greater than 0"),
        ("[supernet]\nbeta = -1", "supernet.beta", "is -1"),
        ("[supernet]\nspace = 3", "supernet.space", "is 3: .*string"),
        ("[search]\ndepth_probability = 1.1", "search.depth_probability", "less than or equal"),
        ('[search]\nrows = "long"', "search.rows", "is 'long': .*'raw', 'scaled' or 'unit'"),
        ("[search]\ntemperature = 0", "search.temperature", "is 0"),
        ("[search]\ntemperature = inf", "search.temperature", "is inf"),
        ('[search]\nmax_params = "abc"', "search.max_params", "'abc'.* such as 6M"),
        ('[search]\nmax_macs = "1e400"', "search.max_macs", "such as 1.3G"),
        ("[search]\nmin_params = -3", "search.min_params", "-3.* such as 6M"),
        ("[search]\nnum_classes = -1", "search.num_classes", "is -1"),
        ("[data]\nin_channels = 0", "data.in_channels", "is 0: .*greater than 0"),
        ("[data]\nimage_size = '12by3'", "data.image_size", "224 for squares"),
        ("[data]\nimage_size = 0", "data.image_size", "pixels above 0"),
        ("[data]\nmean = 'a,b'", "data.mean", "a number for each channel"),
        ("[data]\nstd = [2.0, 1.0]", "data.std", "in \\[0, 1\\]"),
        ("[runtime]\ncache_size = '20'", "runtime.cache_size", "20GB or 512MB"),
        ("[data]\ntest_share = 1.5", "data.test_share", "is 1.5"),
        ("[runtime]\nseed = -1", "runtime.seed", "is -1"),
        ('[runtime]\nprecision = "fp16"', "runtime.precision", "'fp32'"),
        ("[finetune]\ndrop_path = 1", "finetune.drop_path", "is 1"),
        ("teacher = 3", "teacher", "is 3: .*"),
    ],
)
def test_a_wrong_value_is_one_sentence_that_names_it(file, text, key, words):
    path = file(text)
    with pytest.raises(ConfigError, match=words) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: {key} ")
    assert message.endswith(".")
    assert "\n" not in message


def test_a_wrong_flag_is_named_without_a_file():
    with pytest.raises(ConfigError, match=r"^epochs is -1: input should be greater than 0\.$"):
        resolve(TeacherSettings, {"epochs": -1})
    with pytest.raises(ConfigError, match=r"^here: epochs is -1"):
        resolve(TeacherSettings, {"epochs": -1}, where="here")


# --- layers


def test_flags_go_over_the_file_and_the_file_over_defaults(file):
    section = load(file("[teacher]\nepochs = 5\nbatch_size = 64\n"))["teacher"]
    flags = TeacherSettings(epochs=7, depth=3)
    settings = resolve(TeacherSettings, section, flags)
    assert settings == TeacherSettings(epochs=7, depth=3, batch_size=64)
    assert settings.lr == TeacherSettings().lr


def test_a_flag_that_says_the_default_still_goes_over_the_file(file):
    section = load(file("[teacher]\nepochs = 5\n"))["teacher"]
    default = TeacherSettings().epochs
    assert default != 5
    assert resolve(TeacherSettings, section, TeacherSettings(epochs=default)).epochs == default


def test_flags_not_given_leave_the_file_alone(file):
    section = load(file("[teacher]\nepochs = 5\n"))["teacher"]
    assert resolve(TeacherSettings, section, TeacherSettings()).epochs == 5
    assert resolve(TeacherSettings, section, None).epochs == 5
    assert resolve(TeacherSettings, None, None) == TeacherSettings()
    assert resolve(TeacherSettings) == TeacherSettings()


def test_layers_are_left_as_they_were():
    below, above = {"epochs": 5}, {"epochs": 6, "depth": 2}
    resolve(TeacherSettings, below, above)
    assert below == {"epochs": 5}
    assert above == {"epochs": 6, "depth": 2}


def test_later_layers_win_key_by_key():
    settings = resolve(TeacherSettings, {"epochs": 5, "depth": 2}, {"epochs": 6}, {"depth": 4})
    assert (settings.epochs, settings.depth) == (6, 4)


# --- budgets


def test_budgets_are_read_as_people_write_them(file):
    text = '[search]\nmax_params = "6M"\nmin_params = 5000000\nmax_macs = "1.3G"\n'
    settings = resolve(SearchSettings, load(file(text))["search"])
    space = SearchSpace.preset("tiny")
    assert settings.limits == {"max_params": "6M", "min_params": "5000000", "max_macs": "1.3G"}
    assert Budget.of(settings.limits, space, Costs()) == Budget(
        min_params=5_000_000, max_params=6_000_000, max_macs=1_300_000_000
    )
    assert Budget.of(SearchSettings().limits, space, Costs()) == Budget()


def test_a_relative_budget_hangs_on_the_space():
    settings = SearchSettings(max_params="80% of largest", export_precision="fp16")
    for name in ("micro", "tiny"):
        space = SearchSpace.preset(name)
        whole = Costs().of(space.largest)["params"]
        assert settings.by_size(space).budget == Budget(max_params=round(0.8 * whole))


def test_what_is_asked_of_size_alone_needs_no_latency():
    settings = SearchSettings(max_latency="5ms", max_params="6M")
    assert settings.limits_latency
    assert settings.by_size(SearchSpace.preset("tiny")).budget == Budget(max_params=6_000_000)


def test_a_budget_counts_the_heads_of_its_own_classes():
    space = SearchSpace.preset("tiny")
    settings = SearchSettings(max_params="6M", num_classes=10)
    assert settings.check(space).space == space.replace(num_classes=10)
    assert settings.by_size(space).size() > SearchSettings(max_params="6M").by_size(space).size()


def test_what_a_check_has_built_is_not_built_again():
    space, settings = SearchSpace.preset("micro"), SearchSettings(max_params="900K")
    again = SearchSettings(max_params="0.9M", max_latency="5ms")
    assert settings.check(space) is settings.check(SearchSpace.preset("micro"))
    assert again.by_size(space) is settings.by_size(space)
    assert SearchSettings(max_params="900K", export_precision="fp16").by_size(
        space
    ) is not settings.by_size(space)


def test_settings_that_do_not_go_together_are_refused():
    space = SearchSpace.preset("micro")
    with pytest.raises(ConfigError, match="--rating knn cannot rate on a few"):
        SearchSettings(racing=True, rating="knn").check(space)
    with pytest.raises(ConfigError, match="nsga2 also keeps those with low"):
        SearchSettings(racing=True, strategy="nsga2").check(space)
    with pytest.raises(ConfigError, match=r"--rows is for .* --rating alignment does not"):
        SearchSettings(rows="unit").check(space)
    SearchSettings(rows="unit", rating="fusion").check(space)
    with pytest.raises(ConfigError, match="give --band 5% as well"):
        ValidateSettings(center="900K").check(space)
    assert ValidateSettings(center="900K", band="5%").check(space).size() > 0


def test_a_budget_turned_round_is_refused():
    with pytest.raises(BudgetError, match="--min-params 7M is above --max-params 6M"):
        SearchSettings(min_params="7M", max_params="6M").by_size(SearchSpace.preset("tiny"))


# --- the supernet's budget


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"sampler": "focus"}, "--sampler focus trains networks near the budget, and there is no"),
        ({"sampler": "focus", "min_params": "2M"}, "give an upper limit such as --max-macs"),
        (
            {"sampler": "uniform", "max_macs": "30M"},
            "--max-macs is a limit of a search, and --sampler uniform trains",
        ),
        ({"min_macs": "5M"}, "--min-macs is a limit of a search, and --sampler uniform trains"),
    ],
)
def test_a_budget_goes_with_the_sampler_that_uses_it(said, words):
    with pytest.raises(ConfigError, match=words):
        resolve(SupernetSettings, said).check(SearchSpace.preset("micro"))


def test_a_supernet_with_an_upper_limit_is_trained_near_it():
    """As in a run, and whichever of the layers has the limit."""
    space = SearchSpace.preset("micro")
    for layers in (({"max_macs": "30M"},), ({}, SupernetSettings(max_macs="30M")), ({"beta": 0.5},
                   {"max_macs": "30M"})):  # fmt: skip
        settings = resolve(SupernetSettings, *layers)
        assert settings.sampler == "focus"
        assert settings.check(space).size() > 0
    later = resolve(SupernetSettings, settings, {"sampler": "sandwich"})
    assert later.sampler == "sandwich"
    assert SupernetSettings().sampler == "uniform"


def test_a_focus_on_nothing_is_refused():
    settings = SupernetSettings(sampler="focus", max_params="10K")
    with pytest.raises(BudgetError, match="at most 10K params"):
        settings.check(SearchSpace.preset("micro"))
