// What looks at pictures in the browser, in a thread of its own: the detector and the network, by
// ONNX Runtime. It gets {id, kind, ...} and answers with {id, ...} or {id, error}.
"use strict"
import * as ort from "./ort.wasm.bundle.min.mjs"
import {cut, even, findInPhoto, prepare, square, squares, TURNS} from "./faces.js"
import {picture} from "./pixels.js"
import {lastTracks, newClip, nextPicture} from "./tracks.js"

const SHOWN = 4  // images that the network sees at once
let about, detector, network, clip

async function load(names, given, told) {
  if (given) return names.map((name) => given[name])
  let done = 0
  const parts = await Promise.all(names.map(async (name) => {
    const answer = await fetch(name)
    if (!answer.ok) throw new Error(`${name}: ${answer.status} ${answer.statusText}`)
    const chunks = []
    for (let reader = answer.body.getReader(), part; !(part = await reader.read()).done;) {
      chunks.push(part.value)
      told(done += part.value.length)
    }
    return new Uint8Array(await new Blob(chunks).arrayBuffer())
  }))
  return parts
}

// Some hosts unpack .gz files on the way, and some don't.
async function unpacked(bytes) {
  if (bytes[0] != 0x1f || bytes[1] != 0x8b) return bytes
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))
  return new Uint8Array(await new Response(stream).arrayBuffer())
}

// The network's weights, as webpage.split_weights() took them apart.
function weightsOf(high, low, scales) {
  const upper = new Int8Array(high.buffer), steps = new Float32Array(scales.buffer)
  const made = new Float32Array(upper.length)
  let at = 0, channel = 0
  for (const [channels, each] of about.layers)
    for (let left = channels; left; left--) {
      const step = steps[channel++]
      for (const end = at + each; at < end; at++)
        made[at] = (16 * upper[at] + (low[at >> 1] >> 4 * (at & 1) & 15) - 8) * step
    }
  return new Uint8Array(made.buffer)
}

// ``given``: the files' bytes by their names, where they came with the page.
async function start({facts, given}, told) {
  about = facts
  const [wasm, faces, graph, ...parts] = await load(about.files, given, (done) =>
    told({loaded: done, of: about.bytes}))
  ort.env.wasm.numThreads = 1
  ort.env.wasm.wasmBinary = await unpacked(wasm)
  ort.env.logLevel = "error"
  detector = await ort.InferenceSession.create(faces, {logSeverityLevel: 3})
  const externalData = [{path: "network.weights", data: weightsOf(...parts)}]
  network = await ort.InferenceSession.create(graph, {externalData})
  return {}
}

async function detect(data, height, width) {
  const tensor = new ort.Tensor("float32", data, [1, 3, height, width])
  const found = await detector.run({[detector.inputNames[0]]: tensor})
  return detector.outputNames.map((name) => found[name].data)
}

// [P(y > 0), ..., P(male)] of each face, the means over the images of it that the network sees, and
// as ``doubts`` what speaks against it.
async function ask(image, faces, turns) {
  const side = about.size, area = 3 * side ** 2, count = about.probas
  const images = [], owner = []
  faces.forEach((face, i) => {
    for (const [corner, across] of squares(face, turns, about.framing)) {
      images.push(prepare(cut(image, corner, across), side, about.resize))
      owner.push(i)
    }
  })
  const answers = faces.map((face, i) => Object.assign(new Array(count + 1).fill(0),
    {doubts: doubtsOf(face, images[owner.indexOf(i) + (turns.length >> 1)], image)}))
  const shown = faces.map((_, i) => owner.filter((other) => other == i).length)
  for (let begin = 0; begin < images.length; begin += SHOWN) {
    const some = images.slice(begin, begin + SHOWN), batch = new Uint8Array(some.length * area)
    some.forEach((one, i) => batch.set(one, i * area))
    const given = {images: new ort.Tensor("uint8", batch, [some.length, 3, side, side])}
    const told = await network.run(given)
    some.forEach((_, i) => {
      const face = owner[begin + i], answer = answers[face]
      for (let k = 0; k < count; k++) answer[k] += told.probas.data[i * count + k] / shown[face]
      answer[count] += told.male ? told.male.data[i] / shown[face] : 0
    })
  }
  return answers
}

// What speaks against a face, as coral_age/doubts.py says it; ``seen``: what the network sees.
function doubtsOf(face, seen, {width, height}) {
  const limits = about.doubts, [corner, across] = square(face.points, about.framing), found = []
  const [eyeA, eyeB, , mouthA, mouthB] = face.points
  const eyes = [(eyeA[0] + eyeB[0]) / 2, (eyeA[1] + eyeB[1]) / 2]
  const mouth = [(mouthA[0] + mouthB[0]) / 2, (mouthA[1] + mouthB[1]) / 2]
  let inside = 0
  for (let i = 0; i < 256; i++) {
    const [u, v] = [(i % 16 + .5) / 16, (Math.floor(i / 16) + .5) / 16]
    const x = corner[0] + across[0] * u - across[1] * v, y = corner[1] + across[1] * u + across[0] * v
    inside += x >= 0 && x < width && y >= 0 && y < height
  }
  if (Math.hypot(...across) < limits.SMALL) found.push("too small")
  if (inside / 256 < limits.INSIDE) found.push("at the picture's edge")
  const apart = Math.hypot(eyeB[0] - eyeA[0], eyeB[1] - eyeA[1])
  if (apart < limits.FRONTAL * Math.hypot(mouth[0] - eyes[0], mouth[1] - eyes[1])) found.push("turned away")
  if (sharpness(seen, about.size) < limits.SHARP) found.push("blurred")
  if (face.score < limits.CLEAR) found.push("hard to make out")
  return found
}

function sharpness(seen, side) {
  const area = side * side, grey = new Float64Array(area), lap = []
  for (let i = 0; i < area; i++) grey[i] = (seen[i] + seen[area + i] + seen[2 * area + i]) / 3
  for (let y = 1; y < side - 1; y++)
    for (let i = y * side + 1; i < (y + 1) * side - 1; i++)
      lap.push(4 * grey[i] - grey[i - side] - grey[i + side] - grey[i - 1] - grey[i + 1])
  const spread = (some) => {
    const middle = some.reduce((a, b) => a + b) / some.length
    return Math.sqrt(some.reduce((sum, x) => sum + (x - middle) ** 2, 0) / some.length)
  }
  return spread(lap) / Math.max(spread(grey), 1)
}

// The label that the loss of the network makes of its probabilities.
function labelOf(probas) {
  if (about.loss == "dldl") return even(probas.reduce((sum, p, k) => sum + p * k, 0))
  if (about.loss == "l1") return even(probas.reduce((sum, p) => sum + p, 0))
  const whole = probas.length == about.classes
  return whole ? probas.indexOf(Math.max(...probas)) : probas.filter((p) => p > .5).length
}

// What is said of a face, as coral_age/answers.py says it.
function estimate(answer, reasons) {
  const probas = answer.slice(0, -1), {youngest} = about, whole = probas.length == about.classes
  const label = labelOf(probas)
  const above = [1, ...[...probas].sort((a, b) => b - a), 0]
  const classes = whole ? probas : above.slice(1).map((p, i) => above[i] - p)
  const [first, last, held] = interval(classes, label, about.mass?.[label] ?? about.coverage)
  const told = {age: label + youngest, age_low: first + youngest, age_high: last + youngest}
  Object.assign(told, {interval_probability: held, age_probas: classes})
  told.at_end_of_range = label == 0 || label == about.classes - 1
  if (about.gender) {
    const male = answer.at(-1)
    told.gender = male > .5 ? "male" : "female"
    told.gender_probability = Math.max(male, 1 - male)
    const {CHILD, LIKELY} = about.doubts, why = []
    if (told.age < CHILD) why.push("a child")
    if (told.gender_probability < LIKELY) why.push("both are likely")
    if (why.length) told.gender_not_sure = why.join(", ")
  }
  const all = [...reasons]
  if (told.at_end_of_range && told.age) all.push("youngest or oldest age that the model knows")
  if (all.length) told.not_sure = all.join(", ")
  return told
}

// The shortest run of classes with the label in it that holds enough; of several the most probable.
function interval(classes, label, coverage) {
  const sums = [0]
  for (const p of classes) sums.push(sums.at(-1) + p)
  for (let length = 1; ; length++) {
    let best = -1, first = 0
    for (let start = Math.max(label - length + 1, 0); start <= Math.min(label, classes.length - length); start++) {
      const held = sums[start + length] - sums[start]
      if (held > best) [best, first] = [held, start]
    }
    if (best >= coverage || length == classes.length) return [first, first + length - 1, best]
  }
}

function rgb({width, height, data}) {
  const image = picture(width, height)
  for (let from = 0, to = 0; to < image.data.length; from += 4, to += 3) {
    image.data[to] = data[from]
    image.data[to + 1] = data[from + 1]
    image.data[to + 2] = data[from + 2]
  }
  return image
}

const sides = (box, image) => Object.fromEntries(["left", "top", "right", "bottom"].map((name, i) =>
  [name, Math.min(Math.max(even(box[i]), 0), i % 2 ? image.height : image.width)]))

const kinds = {
  start,
  async photo({pixels}) {
    const image = rgb(pixels), [faces, turn] = await findInPhoto(image, detect)
    const answers = await ask(image, faces, TURNS)
    return {faces: faces.map((face, i) => ({face: i + 1, ...sides(face.box, image), score: face.score,
      turn, ...estimate(answers[i], answers[i].doubts)}))}
  },
  async frame({pixels, seconds, first}) {
    if (first) clip = newClip()
    const image = rgb(pixels)
    const {tracks, ended} = await nextPicture(image, clip, seconds, detect, (faces) => ask(image, faces, [0]))
    return {faces: tracks.map((track) => ({face: track.face, ...sides(track.box, image), ...ofTrack(track)})),
      ended: ended.map(summary)}
  },
  end: async () => ({ended: lastTracks(clip).map(summary)}),
}
const ofTrack = (track) => estimate(track.sum.map((sum) => sum / track.asked),
  Object.keys(track.doubts).filter((reason) => 2 * track.doubts[reason] > track.asked))
const summary = (track) => ({face: track.face, seconds: track.seconds, until_seconds: track.until,
  frames: track.frames, ...ofTrack(track)})

let turn = Promise.resolve()
onmessage = ({data: {id, kind, ...given}}) => {
  turn = turn.then(async () => {
    try {
      postMessage({id, ...await kinds[kind](given, (news) => postMessage({id, news}))})
    } catch (error) {
      postMessage({id, error: error.message || String(error)})
    }
  })
}
