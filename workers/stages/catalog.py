"""Which stages a recipe asks for, with which settings, and what each of them trains."""

from collections.abc import Sequence
from dataclasses import dataclass

from workers.contract.model_spec import CustomModel, MlpModel, ModelSpec
from workers.contract.outcome import ConfigFailure
from workers.contract.pretraining_spec import DenoisingAutoencoder, GreedySupervised, Rbm
from workers.contract.recipe import Recipe
from workers.contract.recipe_words import EarlyStop
from workers.contract.reports import StageKind
from workers.contract.training_spec import Adam, OptimizerSpec, ScheduleSpec, Sgd
from workers.data.part import Part
from workers.data.seeds import derived_seed
from workers.models.layered import Layer, Layered, numbered, seeded
from workers.models.mlp import DenseLayer
from workers.stages.convolutional import ConvolutionalDenoising
from workers.stages.denoising import Denoising
from workers.stages.finetune import Finetune
from workers.stages.greedy import Greedy, build_auxiliary_head
from workers.stages.handover import Inputs, bias_of_mean, encoded
from workers.stages.objective import Objective
from workers.stages.rbm import RestrictedBoltzmannMachine

CONSTANT = ScheduleSpec()  # pretraining keeps one learning rate

SEEN_IN_WEIGHTS = {"hidden", "layers", "depth", "init", "gain"}
"""Of a model: how many layers there are and how they began decides nothing that the weights of the
lower ones do not show."""


@dataclass(frozen=True)
class MomentumSwitch:
    """From this epoch of the stage on, the momentum is another."""

    epoch: int
    momentum: float


@dataclass(frozen=True)
class StagePlan:
    """One stage: what it trains, how long, and where it stands in the job."""

    index: int  # from 0
    count: int  # stages of the job
    name: str  # "pretrain-01", ..., "finetune"; "pretrain" where all layers train at once
    kind: StageKind
    layers: tuple[int, ...]  # those that are pretrained, from 0; empty: the whole net
    epochs: int
    steps_per_epoch: int
    batch_size: int  # global
    first_step: int  # optimizer steps of the job before this stage
    first_sample: int
    optimizer: OptimizerSpec
    schedule: ScheduleSpec = CONSTANT
    momentum_switch: MomentumSwitch | None = None
    early_stop: EarlyStop | None = None

    @property
    def is_finetuning(self) -> bool:
        """Whether it trains the whole net."""
        return not self.layers

    @property
    def steps(self) -> int:
        """Optimizer steps of the stage."""
        return self.epochs * self.steps_per_epoch


def plan_stages(
    recipe: Recipe, num_pretraining: int, num_samples: int, world_size: int
) -> tuple[StagePlan, ...]:
    """Return the stages in order: one for each pretrained layer, then fine-tuning.

    Args:
        recipe: what the owner wrote.
        num_pretraining: samples from which the layers learn.
        num_samples: those from which the whole net does.
        world_size: the number of ranks.

    Raises:
        ConfigFailure: a batch is larger than the training part, or too small for the gang.
    """
    training, plans = recipe.training, _pretraining_stages(recipe, num_pretraining, world_size)
    _check_batch(
        *("training", recipe.model, training.batch_size, num_samples),
        world_size,
        training.accumulate,
    )
    first_step, first_sample = _end(plans)
    last = StagePlan(
        index=len(plans),
        count=len(plans) + 1,
        name="finetune",
        kind=StageKind.FINETUNE,
        layers=(),
        epochs=training.epochs,
        steps_per_epoch=num_samples // training.batch_size,
        batch_size=training.batch_size,
        first_step=first_step,
        first_sample=first_sample,
        optimizer=training.optimizer,
        schedule=training.schedule,
        early_stop=training.early_stop,
    )
    return (*plans, last)


def _pretraining_stages(recipe: Recipe, num_samples: int, world_size: int) -> list[StagePlan]:
    plans, pretraining, groups = list[StagePlan](), recipe.pretraining, _groups(recipe)
    if pretraining is None:
        return plans
    batch_size = pretraining.batch_size
    _check_batch("pretraining", recipe.model, batch_size, num_samples, world_size)
    for index, (name, layers) in enumerate(groups):
        first_step, first_sample = _end(plans)
        optimizer, switch = _optimizer(pretraining, index)
        plans.append(
            StagePlan(
                index=index,
                count=len(groups) + 1,
                name=name,
                kind=StageKind(pretraining.method),
                layers=layers,
                epochs=pretraining.epochs_of(index),
                steps_per_epoch=num_samples // batch_size,
                batch_size=batch_size,
                first_step=first_step,
                first_sample=first_sample,
                optimizer=optimizer,
                momentum_switch=switch,
                early_stop=pretraining.early_stop,
            )
        )
    return plans


def build_objective(
    plan: StagePlan, recipe: Recipe, net: Layered, num_classes: int, inputs: Inputs
) -> Objective:
    """Build what a stage trains, on the device of the net.

    Raises:
        ConfigFailure: the inputs leave [0, 1], where the method reads them as probabilities; the
            net has fewer layers than shall be pretrained, or one that the method does not fit.
    """
    method = recipe.pretraining
    if plan.is_finetuning or method is None:
        return Finetune(net)
    if recipe.num_pretrained_layers > len(net.names):
        raise ConfigFailure(
            f"pretraining.layers: asks for {recipe.num_pretrained_layers} layers, but the model "
            f"has {len(net.names)} of them; lower it"
        )
    layers = [net.layer(index) for index in plan.layers]
    generator = seeded(derived_seed(recipe.seed, "stage", plan.index))
    if isinstance(method, GreedySupervised):
        device = next(net.parameters()).device
        heads = [
            build_auxiliary_head(method, recipe.model, shape, num_classes, generator).to(device)
            for shape in _code_shapes(layers, inputs)
        ]
        return Greedy(layers, heads)
    (layer,), (index,) = layers, plan.layers
    if isinstance(method, Rbm):
        as_probability = method.visible_of(index) == "bernoulli"
    else:
        as_probability = method.reconstruction_loss == "bce"
    if as_probability and index == 0:
        _check_probabilities(inputs, method)
    visible_bias_V = bias_of_mean(inputs.mean(), as_probability)
    if isinstance(method, Rbm):
        assert isinstance(layer, DenseLayer), "the recipe refuses other layers for this method"
        return RestrictedBoltzmannMachine(
            layer, method, not as_probability, visible_bias_V, generator
        )
    level = method.corruption_level_of(index)
    if isinstance(recipe.model, MlpModel):
        assert isinstance(layer, DenseLayer), "the recipe refuses other layers for this method"
        return Denoising(layer, method, level, visible_bias_V, recipe.model, generator)
    (shape,) = _code_shapes(layers, inputs)
    return ConvolutionalDenoising(layer, method, level, visible_bias_V, shape, generator)


def first_inputs(recipe: Recipe, part: Part) -> Inputs:
    """Return what the first layer sees.

    Codes on disk are found again by jobs that have the same kind of layers, however many; a
    custom net's only by jobs with the same code.
    """
    model = recipe.model
    if isinstance(model, CustomModel):
        return Inputs(part, model=f"{model.model_dump_json()} {recipe.code}")
    return Inputs(part, model=model.model_dump_json(exclude=SEEN_IN_WEIGHTS))


def _groups(recipe: Recipe) -> list[tuple[str, tuple[int, ...]]]:
    """The stages before fine-tuning: their names, and the layers that each trains."""
    method, num_layers = recipe.pretraining, recipe.num_pretrained_layers
    if isinstance(method, GreedySupervised) and method.parallel:
        return [("pretrain", tuple(range(num_layers)))]
    return [(name, (k,)) for k, name in enumerate(numbered("pretrain", num_layers))]


def _optimizer(
    method: DenoisingAutoencoder | Rbm | GreedySupervised, index: int
) -> tuple[Sgd | Adam, MomentumSwitch | None]:
    if isinstance(method, Rbm):
        switch = MomentumSwitch(method.momentum_switch_epoch, method.momentum_final)
        return Sgd(name="sgd", lr=method.lr_of(index), momentum=method.momentum_initial), switch
    if method.optimizer == "adam":
        return Adam(name="adam", lr=method.lr_of(index)), None
    return Sgd(name="sgd", lr=method.lr_of(index)), None


def _end(plans: list[StagePlan]) -> tuple[int, int]:
    """Steps and samples of the stages planned so far."""
    return sum(plan.steps for plan in plans), sum(plan.steps * plan.batch_size for plan in plans)


def _check_batch(
    part: str,
    model: ModelSpec,
    batch_size: int,
    num_samples: int,
    world_size: int,
    accumulate: int = 1,
) -> None:
    """Refuse batches that can't be filled, or not be divided among the workers."""
    if batch_size > num_samples:
        raise ConfigFailure(
            f"{part}.batch_size: a batch of {batch_size} is more than the {num_samples} samples of "
            "the training part; lower it"
        )
    if batch_size < world_size:
        raise ConfigFailure(
            f"{part}.batch_size: a batch of {batch_size} does not give each of {world_size} "
            "workers a sample; raise it, or take fewer workers"
        )
    # Of a single vector the variance is 0; the pixels of an image have one of their own.
    is_by_batch = isinstance(model, MlpModel) and model.normalization == "batch"
    num_shares = world_size * accumulate
    if is_by_batch and batch_size < 2 * num_shares:
        raise ConfigFailure(
            f"{part}.batch_size: batch normalization needs two samples or more at once, which a "
            f"batch of {batch_size} in {num_shares} parts (workers, and training.accumulate) does "
            "not give; raise it, or take normalization: layer"
        )


def _code_shapes(layers: Sequence[Layer], inputs: Inputs) -> list[tuple[int, ...]]:
    """The shapes of what layers, one above the other, make of one sample; found by trying."""
    shapes, h = [], next(inputs.passes())[:1]
    for layer in layers:
        h = encoded(h, [layer])
        shapes.append(tuple(h.shape[1:]))
    return shapes


def _check_probabilities(inputs: Inputs, method: DenoisingAutoencoder | Rbm) -> None:
    low, high = inputs.limits()
    if low < 0.0 or high > 1.0:
        mending = "write scale: unit"
        if isinstance(method, DenoisingAutoencoder):
            mending += ", or pretraining.reconstruction_loss: mse"
        raise ConfigFailure(
            f"data.scale: {method.method} reads its inputs as probabilities in [0, 1], but the "
            f"training part goes from {low:g} to {high:g}; {mending}"
        )
