"""The textbook of dynamic deep learning: numpy in float64, units as objects, no torch.

A unit knows whom it hears and whom it wants to serve. What dies is forgotten by all who knew it,
so nothing is masked here and no place is empty.
"""

import math

import numpy as np
import reference
from reference_step_sizes import cap, go, new_weight, plan

NEWBORN = 30
KEPT = 0.1  # share of its utility that a hidden unit does not pass on


class Source:
    """What can be heard: an input, or a hidden unit."""

    def __init__(self, number):
        self.number = number  # of the source, inputs first: random draws are told apart by it
        self.age, self.mean, self.spread, self.activity = 0, 0.0, 0.0, 0.0

    def watch(self, hyper):
        """Follow one's own activity; the first examples are averaged plainly."""
        self.age += 1
        decay = hyper["mean_decay" if isinstance(self, Unit) else "input_mean_decay"]
        self.mean += max(1 / self.age, 1 - decay) * (self.activity - self.mean)
        deviation = abs(self.activity - self.mean)
        self.spread += max(1 / self.age, 1 - hyper["utility_decay"]) * (deviation - self.spread)


class Listener:
    """What hears: an output, or a hidden unit."""

    def __init__(self, level):
        self.level = level
        self.weight = {}  # by source
        self.memory = {}  # what Autostep remembers of each weight
        self.bias, self.bias_memory = 0.0, new_weight()
        self.hunger, self.curvature = 0.0, 0.0
        self.utility = 0.0

    def hear(self, source, weight, memory):
        self.weight[source], self.memory[source] = weight, memory

    def sum(self):
        return self.bias + sum(w * source.activity for source, w in self.weight.items())

    def forget(self, source):
        """Hear a source no more, but for what it said on average."""
        if source in self.weight:
            self.bias += self.weight.pop(source) * source.mean
            del self.memory[source]

    def prepare(self, hyper):
        """Give its pace: how far the sum of w (s - mean) + b' would move for an error of 1."""
        self.around = {source: hyper["centring"] * source.mean for source in self.weight}
        self.levels = [source.level_of(hyper) for source in self.weight]
        self.heard = [(source.activity - mean) * level
                      for (source, mean), level in zip(self.around.items(), self.levels)] + [1.0]
        self.bent = self.curvature / hyper["bound"]
        return plan(self.memories(), self.hunger, self.heard, self.bent, hyper)

    def memories(self):
        return [*self.memory.values(), self.bias_memory]

    def learn(self, M, forgetting, hyper, l1=0.0):
        """Take the step, M times shorter, and forget; b' is b and the sum of w mean."""
        alphas = [hyper["step_size"] * math.exp(m["beta"]) for m in self.memory.values()]
        *changes, change = go(self.memories(), self.hunger, self.heard, self.bent, hyper, M)
        cap(self.memories(), hyper)
        self.bias += change
        for (source, mean), level, alpha, change in zip(self.around.items(), self.levels, alphas,
                                                        changes, strict=True):
            change = level * (change - forgetting * alpha / M * self.weight[source])
            change = soft(self.weight[source] + change, level * alpha / M * l1) - self.weight[source]
            self.weight[source] += change
            self.bias -= change * mean

    def uses(self):
        return {source: abs(w) * source.spread for source, w in self.weight.items()}

    def pass_on(self, amount):
        """Give utility to those who earned it; give how much found no taker."""
        uses = self.uses()
        total = sum(uses.values())
        if total == 0:
            return amount
        for source, use in uses.items():
            source.utility += amount * use / total
        return 0.0


def soft(w, least):
    """Bring a weight nearer to 0, or to it."""
    return math.copysign(max(abs(w) - least, 0.0), w)


class Input(Source):
    utility = 0.0

    def level_of(self, hyper):
        """Inputs are heard as they are."""
        return 1.0


class Trial:
    """What an output would be with another bound. It hears the same and takes the same step sizes."""

    def __init__(self, times):
        self.times, self.weight, self.bias, self.error = times, {}, 0.0, 0.0

    def learn(self, output, alphas, M, forgetting, l1):
        for (source, mean), level, alpha, heard in zip(output.around.items(), output.levels, alphas[:-1],
                                                       output.heard[:-1], strict=True):
            turn = level * alpha / M * (self.error * heard - forgetting * self.weight[source])
            turn = soft(self.weight[source] + turn, level * alpha / M * l1) - self.weight[source]
            self.weight[source] += turn
            self.bias -= turn * mean
        self.bias += alphas[-1] / M * self.error


class Output(Listener):
    def __init__(self, level):
        super().__init__(level)
        self.trials = [Trial(0.5), Trial(2.0)]

    def hear(self, source, weight, memory):
        super().hear(source, weight, memory)
        for trial in self.trials:
            trial.weight[source] = weight

    def forget(self, source):
        super().forget(source)
        for trial in self.trials:
            trial.bias += trial.weight.pop(source) * source.mean

    def learn_trials(self, share, joint, hyper):
        alphas = [hyper["step_size"] * math.exp(m["beta"]) for m in self.memories()]
        for trial in self.trials:
            beyond = max(abs(trial.error) - self.curvature, 0.0)
            trial.learn(self, alphas, max(share / trial.times, joint, 1.0),
                        hyper["forgetting"] * beyond, hyper["l1"])

    def saturation(self, most=np.inf):
        """What of the error, up to some most, the curvature of the loss does not show."""
        return max(min(abs(self.hunger), most) - self.curvature, 0.0)


class Unit(Source, Listener):
    """A hidden unit: of the fringe until it is used."""

    def __init__(self, number, level, master, wish):
        Source.__init__(self, number)
        Listener.__init__(self, level)
        self.master, self.wish = master, wish
        self.backbone = False

    def level_of(self, hyper):
        """The more a unit says, the smaller the steps of its weights."""
        return (self.spread + 0.1) ** -hyper["levelling"]

    def wants(self, listener, hyper):
        """Give what its shadow weight adds to the weight with which a listener hears it."""
        if listener is not self.master or self.backbone:
            return 0.0
        heard_as_wished = max(self.wish * listener.weight[self], 0.0)
        return self.wish * max(hyper["shadow"] - heard_as_wished, 0.0)


class Dynamic:
    """One network. `log` tells what happened: (time, what, place, more)."""

    def __init__(self, seed, inputs, places, outputs, loss="squared_error", depth=1, **hyper):
        self.seed, self.loss, self.depth, self.hyper = seed, loss, depth, hyper
        self.inputs = [Input(i) for i in range(inputs)]
        self.outputs = [Output(depth + 1) for _ in range(outputs)]
        for output in self.outputs:
            for source in self.inputs:
                output.hear(source, 0.0, new_weight())
        self.place = [None] * places
        self.due, self.t, self.log = 0.0, 0, []
        self.bound, self.apart = hyper["bound"], 0.0

    def units(self):
        return [unit for unit in self.place if unit is not None]

    def listeners(self):
        return self.outputs + (self.units() if self.depth > 1 else [])

    def listeners_of(self, unit):
        return [listener for listener in self.listeners() if unit in listener.weight]

    def predict(self, x):
        for source, value in zip(self.inputs, x, strict=True):
            source.activity = float(value)
        for unit in sorted(self.units(), key=lambda unit: unit.level):
            unit.activity = max(unit.sum(), 0.0)
        return np.array([output.sum() for output in self.outputs])

    def learn(self, x, y):
        """Live through one example; give the score of the prediction."""
        prediction = self.predict(x)
        _, score, slope = reference.loss_and_slope(prediction, y, self.loss)
        losses = self.try_bounds(y)
        for source in self.inputs + self.units():
            source.watch(self.hyper)
        self.propagate_utility()
        self.guard()
        self.grow_hungry(slope, prediction)
        self.learn_together()
        self.judge(losses)
        self.perhaps_give_birth()
        self.t += 1
        return score

    def try_bounds(self, y):
        """Let the trials answer; give their losses."""
        losses = []
        for k in range(2):
            trials = [output.trials[k] for output in self.outputs]
            answer = np.array([trial.bias + sum(w * source.activity for source, w in
                                                trial.weight.items()) for trial in trials])
            loss, _, slope = reference.loss_and_slope(answer, y, self.loss)
            whole = len(answer) if self.loss == "squared_error" else 1
            losses.append(whole * loss)
            slope = whole * slope
            for trial, s in zip(trials, slope, strict=True):
                trial.error = -s
        return losses

    def judge(self, losses):
        """The bound goes to the side of the trial with the smaller loss."""
        difference = losses[0] - losses[1]
        self.apart += 0.001 * (abs(difference) - self.apart)
        by = min(max(difference / max(self.apart, 1e-4 * sum(losses) + 1e-30), -3), 3)
        if self.hyper["bound_rate"]:
            self.bound = min(max(self.bound * math.exp(self.hyper["bound_rate"] * by), 1e-3), 1.0)

    def learn_together(self):
        """Outputs and backbone correct no more than all of it together; the fringe each its own."""
        everybody = self.outputs + self.units()
        bounds = {output: {"bound": self.bound} for output in self.outputs}
        pace = {k: k.prepare({**self.hyper, **bounds.get(k, {})}) for k in everybody}
        whole = max(self.joint_pace(output, pace) * output.curvature for output in self.outputs)
        saturated = max(output.saturation(most=1.0) for output in self.outputs)
        for listener in everybody:
            heard = listener in self.outputs or listener.backbone
            joint = whole if heard and self.hyper["joint"] else 0.0
            l1 = self.hyper["l1"] if listener in self.outputs else 0.0
            if listener in self.outputs:
                forgetting = self.hyper["forgetting"] * listener.saturation()
                listener.learn_trials(pace[listener] * listener.bent, joint, self.hyper)
            else:
                forgetting = self.hyper["hidden_forgetting"] * saturated * (listener.hunger != 0)
            listener.learn(max(pace[listener] * listener.bent, joint, 1.0), forgetting, self.hyper,
                           l1)

    def joint_pace(self, listener, pace):
        """Follow all paths down from a listener."""
        return pace[listener] + sum(w**2 * self.joint_pace(source, pace)
                                    for source, w in listener.weight.items()
                                    if isinstance(source, Unit) and source.activity > 0)

    def propagate_utility(self):
        """Put 1 on each output, and let it flow down; remember where all of it went."""
        self.kept = self.leaked = 0.0
        for source in self.inputs + self.units():
            source.utility = 0.0
        total = sum(sum(output.uses().values()) for output in self.outputs)
        for output in self.outputs:
            if self.hyper["propagation"] or total == 0:
                amount = 1.0
            else:  # who says more has more to give
                amount = len(self.outputs) * sum(output.uses().values()) / total
            self.leaked += output.pass_on(amount)
        for unit in sorted(self.units(), key=lambda unit: -unit.level):
            if unit.level > 1:
                self.kept += KEPT * unit.utility
                self.leaked += unit.pass_on((1 - KEPT) * unit.utility)
            else:
                self.kept += unit.utility
        self.delivered = sum(source.utility for source in self.inputs)

    def guard(self):
        """Who is used joins the backbone; who is not used any more serves whom it served best."""
        fallen = []
        for unit in self.units():
            share = unit.utility * len(self.units()) / len(self.outputs)
            if not unit.backbone and share > self.hyper["join"]:
                unit.backbone = True
                self.note("joins", unit)
            elif unit.backbone and share < self.hyper["leave"]:
                unit.backbone = False
                fallen.append(unit)
                self.note("falls", unit)
        for unit in fallen:
            heeded = [k for k in self.listeners_of(unit) if k in self.outputs or k.backbone]
            unit.master = max(heeded, key=lambda k: abs(k.weight[unit]))
            unit.wish = -1.0 if unit.master.weight[unit] < 0 else 1.0

    def grow_hungry(self, slope, prediction):
        """Carry hungers and curvatures back over what listeners hear and units wish to tell."""
        if self.loss == "squared_error":  # of each output, not the mean of them
            curvatures = [2.0] * len(prediction)
            slope = slope * len(prediction)
        else:
            powers = [math.exp(o - max(prediction)) for o in prediction]
            curvatures = [p / sum(powers) * (1 - p / sum(powers)) for p in powers]
        for output, s, c in zip(self.outputs, slope, curvatures, strict=True):
            output.hunger, output.curvature = -s, c
        for unit in sorted(self.units(), key=lambda unit: -unit.level):
            unit.hunger = unit.curvature = 0.0
            if unit.activity > 0:
                for listener in self.listeners_of(unit):
                    weight, wants = listener.weight[unit], unit.wants(listener, self.hyper)
                    said = self.hyper["as_if"] * (unit.activity - unit.mean)
                    as_if = listener.hunger - wants * listener.curvature * said
                    unit.hunger += weight * listener.hunger + wants * as_if
                    unit.curvature += (weight**2 + wants**2) * listener.curvature

    def perhaps_give_birth(self):
        fringe = [unit for unit in self.units() if not unit.backbone]
        most = self.hyper["fringe"] or math.inf
        if None in self.place and len(fringe) < most:
            self.due += self.hyper["growth_rate"]
            if self.due >= 1:
                self.due -= 1
                self.give_birth(self.place.index(None), room=True)
            return
        mature = [unit for unit in self.units() if unit.age > self.hyper["maturity_threshold"]
                  and not (self.hyper["protection"] and unit.backbone)]
        hunger = min(max(abs(output.hunger) for output in self.outputs), 1.0)
        pace = (self.bound / self.hyper["bound"]) ** self.hyper["patience"]
        rate = (self.hyper["replacement_rate"] * len(mature) * pace
                * (hunger if self.hyper["hungry_births"] else 1.0))
        self.due += min(rate, 1.0)
        if self.due >= 1 and mature:
            self.due -= 1
            least = min(mature, key=lambda unit: unit.utility)
            self.give_birth(self.place.index(least), room=False)
            return
        may = [unit for unit in mature if not unit.backbone]
        if len(fringe) > most and may:
            least = min(may, key=lambda unit: unit.utility)
            self.note("died", least)
            self.bury(least)

    def bury(self, unit):
        """All forget it: those who heard it, and those who served it."""
        self.place[self.place.index(unit)] = None
        for listener in self.listeners():
            listener.forget(unit)
        for servant in self.units():
            if servant.master is unit:
                servant.master = None
                self.note("orphaned", servant)

    def choose_master(self, luck):
        """Of the outputs and the backbone units that a unit could be below: the hungriest."""
        masters = list(self.outputs)
        masters += [unit for unit in self.units() if unit.backbone and unit.level > 1]
        if self.hyper["random_master"]:
            return max(masters, key=lambda master: luck[self.row_of(master)])
        return max(masters, key=lambda master: abs(master.hunger))

    def row_of(self, listener):
        """Number of a listener, outputs first."""
        if listener in self.outputs:
            return self.outputs.index(listener)
        return len(self.outputs) + self.place.index(listener)

    def give_birth(self, place, room):
        if not room:
            self.bury(self.place[place])
        sources = len(self.inputs) + (len(self.place) if self.depth > 1 else 0)
        listeners = len(self.outputs) + (len(self.place) if self.depth > 1 else 0)
        u = reference.draw_uniform(self.seed, NEWBORN, self.t, np.arange(sources + listeners))
        master = self.choose_master(u[sources:])
        unit = Unit(len(self.inputs) + place, master.level - 1, master,
                    1.0 if master.hunger >= 0 else -1.0)
        below = self.inputs + [other for other in self.units() if other.level < unit.level]
        self.imprint(unit, below, u)
        for listener in self.listeners():
            if listener.level > unit.level:
                memory = new_weight()
                if not room:
                    memory["beta"] = math.log(self.hyper["newcomer_step_size"]
                                              / self.hyper["step_size"])
                listener.hear(unit, 0.0, memory)
        self.place[place] = unit
        self.note("born", unit, room=room, level=unit.level, served=type(master).__name__)

    def imprint(self, unit, below, u):
        """Weights to what is unusual now, and a little at random; on average the sum is 0."""
        unusual = [source.activity - source.mean for source in below]
        length = math.sqrt(sum(d**2 for d in unusual) + 1e-12)
        bound = reference.bound(len(self.inputs), "relu")
        for source, d in zip(below, unusual, strict=True):
            random = bound * (2 * u[source.number] - 1)
            weight = self.hyper["imprint"] * d / length + self.hyper["noise"] * random
            unit.hear(source, weight, new_weight())
            unit.bias -= weight * source.mean

    def note(self, what, unit, **more):
        self.log.append((self.t, what, self.place.index(unit), more))

    # Where the numbers are, for comparison --------------------------------------------------

    def matrix(self, listeners, sources, number, of_bias):
        """Collect a number of every weight: rows of listeners, the bias last; 0 where none is."""
        rows = np.zeros((len(listeners), len(sources) + 1))
        for row, listener in zip(rows, listeners, strict=True):
            if listener is not None:
                for i, source in enumerate(sources):
                    if source in listener.weight:
                        row[i] = number(listener, source)
                row[-1] = of_bias(listener)
        return rows

    def state(self):
        """Give everything it knows, in arrays: places as they are, empty ones 0."""
        hidden = self.place if self.depth > 1 else []
        found = {}
        for name, listeners, sources in [("hidden", self.place, self.inputs + hidden),
                                         ("output", self.outputs, self.inputs + self.place)]:
            found[name] = self.matrix(listeners, sources, lambda k, s: k.weight[s],
                                      lambda k: k.bias)
            found[f"{name} alpha"] = self.hyper["step_size"] * self.matrix(
                listeners, sources, lambda k, s: math.exp(k.memory[s]["beta"]),
                lambda k: math.exp(k.bias_memory["beta"]))
            for part in ("v", "h"):
                found[f"{name} {part}"] = self.matrix(
                    listeners, sources, lambda k, s: k.memory[s][part],
                    lambda k: k.bias_memory[part])
        shadow = np.zeros((len(self.outputs) + len(hidden), len(self.place)))
        for j, unit in enumerate(self.place):
            if unit is not None and unit.master is not None:
                shadow[self.row_of(unit.master), j] = unit.wish
        known = {name: np.array([getattr(s, name) if s else 0 for s in self.inputs + self.place])
                 for name in ("age", "mean", "spread")}
        known |= {name: np.array([getattr(unit, name) if unit else 0 for unit in self.place])
                  for name in ("level", "backbone")}
        trials = [self.matrix(self.outputs, self.inputs + self.place,
                              lambda output, s, k=k: output.trials[k].weight[s],
                              lambda output, k=k: output.trials[k].bias) for k in range(2)]
        return found | known | {"shadow": shadow, "due": self.due, "trials": np.array(trials),
                                "log": math.log(self.bound / self.hyper["bound"]),
                                "apart": self.apart}
