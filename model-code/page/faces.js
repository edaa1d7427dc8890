// The faces in a picture, and the squares of it that the network is shown, as coral_age/detect.py
// finds and cuts them; its comments tell where the numbers come from. Complex numbers are [re, im].
"use strict"
import {crop, picture, reduce, resize, shrunk, transform, turned} from "./pixels.js"

export const MIN_SCORE = .4
const MEGAPIXELS = 1.2, LONGEST = 32000, LARGE = 450, SMALL = .15
const CLEAR = 32, HINT = .15, WEAK = .7, UPRIGHT = 45
const OVERLAP = .3, INSIDE = .7, WINDOW = 128, AROUND = 2.5
const ALIGNED = [[.301, .301], [.695, .299], [.487, .517], [.329, .687], [.652, .684]]
const SIDE = 200, TURNED = 1.1, EYES_TO_MOUTH = .98
export const TURNS = [-4, 0, 4]
const LOOK = 16, NOISE = (5 * LOOK) ** 2

// ---- Numbers
// To the nearest whole number, as Python and numpy round: 2.5 to 2.
export function even(x) {
  const near = Math.round(x)
  return near - x == .5 && near % 2 ? near - 1 : near
}
const add = (a, b) => [a[0] + b[0], a[1] + b[1]]
const sub = (a, b) => [a[0] - b[0], a[1] - b[1]]
const mul = (a, b) => [a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]]
const div = (a, b) => mul(a, [b[0] / (b[0] ** 2 + b[1] ** 2), -b[1] / (b[0] ** 2 + b[1] ** 2)])
const times = (a, k) => [a[0] * k, a[1] * k]
const size = (a) => Math.hypot(a[0], a[1])
const mean = (some) => times(some.reduce(add), 1 / some.length)
const within = (x, low, high) => Math.min(Math.max(x, low), high)

// ---- The detector
function common(a, b) {
  return Math.max(Math.min(a[2], b[2]) - Math.max(a[0], b[0]), 0) *
    Math.max(Math.min(a[3], b[3]) - Math.max(a[1], b[1]), 0)
}

// Intersection of two boxes by their union, and by the smaller one.
export function overlap(a, b) {
  const both = common(a, b), [first, second] = [a, b].map((x) => (x[2] - x[0]) * (x[3] - x[1]))
  return [both / Math.max(first + second - both, 1e-9), both / Math.max(Math.min(first, second), 1e-9)]
}

function best(faces) {
  const kept = []
  for (const face of [...faces].sort((a, b) => b.score - a.score))
    if (kept.map((other) => overlap(face.box, other.box))
      .every(([union, smaller]) => union < OVERLAP && smaller < INSIDE)) kept.push(face)
  return kept
}

// Faces as {box: [left, top, right, bottom], score, points: five [x, y]}; ``detect`` runs the
// network: (data, height, width) to the values of its four outputs.
async function look(image, minScore, detect) {
  const [height, width] = [image.height, image.width].map((side) => Math.ceil(side / 32) * 32)
  const batch = new Float32Array(3 * height * width), plane = height * width
  for (let y = 0, from = 0; y < image.height; y++)
    for (let to = y * width, end = to + image.width; to < end; to++, from += 3) {
      batch[to] = image.data[from]
      batch[plane + to] = image.data[from + 1]
      batch[2 * plane + to] = image.data[from + 2]
    }
  const [heat, sizes, offset, place] = await detect(batch, height, width)
  const columns = width / 4, count = heat.length, faces = []
  for (let i = 0; i < count; i++) {
    if (!(heat[i] >= minScore)) continue
    const [row, column] = [Math.floor(i / columns), i % columns]
    const [down, across] = [Math.fround(Math.exp(sizes[i])) * 4, Math.fround(Math.exp(sizes[count + i])) * 4]
    const y = row * 4 + 2 + offset[i] * 4, x = column * 4 + 2 + offset[count + i] * 4
    const left = x - across / 2, top = y - down / 2
    const points = [0, 1, 2, 3, 4].map((k) => [left + place[(2 * k + 1) * count + i] * across,
      top + place[2 * k * count + i] * down])
    faces.push({box: [left, top, left + across, top + down], score: heat[i], points})
  }
  return best(faces)
}

function scaleOf({width, height}) {
  return Math.min((MEGAPIXELS / (width * height / 1e6)) ** .5, LONGEST / Math.max(width, height), 1)
}

async function findIn(image, [left, top, right, bottom], scale, minScore, detect) {
  const whole = !left && !top && right == image.width && bottom == image.height
  const part = whole ? image : crop(image, left, top, right, bottom)
  const sides = [right - left, bottom - top], seen = sides.map((side) => Math.max(even(side * scale), 1))
  const [x, y] = sides.map((side, i) => side / seen[i])
  return (await look(shrunk(part, ...seen), minScore, detect)).map((face) => ({
    score: face.score, points: face.points.map((p) => [left + p[0] * x, top + p[1] * y]),
    box: face.box.map((side, i) => (i % 2 ? top + side * y : left + side * x)),
  }))
}

const heightOf = (face) => face.box[3] - face.box[1]
const all = (image) => [0, 0, image.width, image.height]

export async function findFaces(image, detect, minScore = MIN_SCORE) {
  const scale = scaleOf(image)
  let faces = await findIn(image, all(image), scale, minScore, detect)
  if (Math.min(image.width, image.height) * scale > LARGE) {
    faces = faces.filter((face) => heightOf(face) * scale <= LARGE)
    const small = (SMALL / (image.width * image.height / 1e6)) ** .5
    faces.push(...await findIn(image, all(image), small, minScore, detect))
  }
  return best(faces)
}

function isUpright({points}) {
  const down = sub(mean(points.slice(3)), mean(points.slice(0, 2)))
  return Math.abs(Math.atan2(-down[0], down[1])) * 180 / Math.PI < UPRIGHT
}

async function findFast(image, detect) {
  const scale = scaleOf(image) / 2, faces = await findIn(image, all(image), scale, HINT, detect)
  const large = faces.every((f) => CLEAR <= heightOf(f) * scale && heightOf(f) * scale <= LARGE)
  if (faces.length && large && faces.at(-1).score >= MIN_SCORE) return faces
  return findFaces(image, detect)
}

// The faces of a photo, and by how many degrees it is to be turned clockwise to stand upright.
export async function findInPhoto(image, detect) {
  const faces = await findFast(image, detect)
  if (faces.length && faces[0].score >= WEAK && isUpright(faces[0])) return [faces, 0]
  const scale = scaleOf(image) / 2, sure = []
  const small = shrunk(image, ...[image.width, image.height].map((s) => Math.max(even(s * scale), 1)))
  for (let quarters = 0; quarters < 4; quarters++) {
    const found = await look(turned(small, quarters), MIN_SCORE, detect)
    sure.push(found.filter(isUpright).reduce((sum, face) => sum + face.score, 0))
  }
  const quarters = sure.indexOf(Math.max(...sure))
  if (!quarters) return [faces, 0]
  const again = await findFast(turned(image, quarters), detect)
  if (!again.length || again[0].score < WEAK) return [faces, 0]
  const back = ([x, y]) => [[x, y], [y, image.height - x], [image.width - x, image.height - y],
    [image.width - y, x]][quarters]
  for (const face of again) {
    face.points = face.points.map(back)
    const [a, b] = [back(face.box.slice(0, 2)), back(face.box.slice(2))]
    face.box = [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[0], b[0]), Math.max(a[1], b[1])]
  }
  return [again, 90 * quarters]
}

// Known faces, looked for again near their boxes, at a small part of the cost.
export async function findAgain(image, boxes, detect) {
  const faces = []
  for (const [left, top, right, bottom] of boxes) {
    const half = AROUND / 2 * Math.max(right - left, bottom - top, 1)
    const [x, y] = [(left + right) / 2, (top + bottom) / 2]
    const region = [x - half, y - half, x + half, y + half].map((side, i) =>
      within(Math.trunc(even(side)), 0, i % 2 ? image.height : image.width))
    if (region[2] > region[0] && region[3] > region[1])
      faces.push(...await findIn(image, region, WINDOW / (2 * half), MIN_SCORE, detect))
  }
  return best(faces)
}

// ---- The square that the network is shown
// Its left upper corner, and from there to the right upper one; as the photos of UTKFace show a
// face, or with ``framing`` [side, down], as detect.SQUARES has them of other sets.
export function square(points, framing) {
  if (framing) {
    const [eyes, mouth] = [mean(points.slice(0, 2)), mean(points.slice(3))], high = size(sub(mouth, eyes))
    const unit = Math.max(size(sub(points[1], points[0])), high / EYES_TO_MOUTH, 1)
    const across = framing[0] * unit, down = framing[1] * unit / Math.max(high, 1)
    const centre = add(eyes, times(sub(mouth, eyes), down))
    return [sub(centre, [across / 2, across / 2]), [across, 0]]
  }
  const middle = mean(points), due = mean(ALIGNED)
  const apart = ALIGNED.map((p) => sub(p, due)), conjugate = apart.map(([x, y]) => [x, -y])
  const product = points.map((p, i) => mul(conjugate[i], sub(p, middle))).reduce(add)
  let across = times(product, 1 / apart.reduce((sum, p) => sum + size(p) ** 2, 0))
  if (size(across) <= 1) across = [1, 0]
  const centre = add(middle, mul(sub([.5, .5], due), across))
  return [sub(centre, mul([.5, .5], across)), across]
}

// square(), without framing of a face turned to the side a wider one, too, each once for each of
// ``turns``, in degrees.
export function squares(face, turns, framing) {
  if (framing) return [square(face.points, framing)]
  const [corner, across] = square(face.points), shown = [[corner, across]]
  const high = ([points]) => size(sub(mean(points.slice(3)), mean(points.slice(0, 2))))
  const wider = high([face.points]) / high([ALIGNED]) / size(across)
  if (wider >= TURNED) {
    let centre = add(corner, mul([.5, .5], across))
    const middle = [(face.box[0] + face.box[2]) / 2, (face.box[1] + face.box[3]) / 2]
    centre = add(centre, times(across, div(sub(middle, centre), across)[0]))
    const wide = times(across, wider)
    shown.push([sub(centre, mul([.5, .5], wide)), wide])
  }
  return shown.flatMap(([begin, axis]) => turns.map((degrees) => {
    const turn = [Math.cos(degrees * Math.PI / 180), Math.sin(degrees * Math.PI / 180)]
    const stay = sub([1, 0], turn)
    return [add(begin, mul(mul([.5, .5], axis), stay)), mul(axis, turn)]
  }))
}

// A square of the picture, SIDE pixels wide; what lies outside repeats its border.
export function cut(image, corner, across) {
  const corners = [[0, 0], [1, 0], [0, 1], [1, 1]].map((c) => add(corner, mul(c, across)))
  const shrink = Math.max(Math.trunc(size(across) / SIDE), 1), sides = [image.width, image.height]
  const low = [0, 1].map((i) => Math.floor(Math.min(...corners.map((c) => c[i]))) - 2 * shrink)
  const high = [0, 1].map((i) => Math.ceil(Math.max(...corners.map((c) => c[i]))) + 2 * shrink)
  const begin = low.map((x, i) => within(x, 0, sides[i] - 1))
  const end = high.map((x, i) => within(x, begin[i] + 1, sides[i]))
  const part = reduce(crop(image, ...begin, ...end), shrink, shrink)
  const before = begin.map((x, i) => Math.max(Math.ceil((x - low[i]) / shrink), 0))
  const after = high.map((x, i) => Math.floor(Math.max(x - end[i], 0) / shrink) + 1)
  const padded = picture(before[0] + part.width + after[0], before[1] + part.height + after[1])
  for (let y = 0, to = 0; y < padded.height; y++) {
    const row = within(y - before[1], 0, part.height - 1) * part.width
    for (let x = 0; x < padded.width; x++, to += 3) {
      const from = (row + within(x - before[0], 0, part.width - 1)) * 3
      padded.data[to] = part.data[from]
      padded.data[to + 1] = part.data[from + 1]
      padded.data[to + 2] = part.data[from + 2]
    }
  }
  return transform(padded, SIDE, add(times(sub(corner, begin), 1 / shrink), before),
    times(across, 1 / shrink / SIDE))
}

// The middle of a square as the network takes it: (3, side, side) of uint8.
export function prepare(image, side, resized) {
  const seen = resize(image, resized, resized), start = even((resized - side) / 2)
  const made = new Uint8Array(3 * side * side)
  for (let y = 0, to = 0; y < side; y++)
    for (let x = 0, from = ((y + start) * resized + start) * 3; x < side; x++, to++, from += 3)
      for (let band = 0; band < 3; band++) made[band * side * side + to] = seen.data[from + band]
  return made
}

// ---- What has changed from one picture of a video to the next
const PARTS = Array.from({length: 2 * LOOK}, (_, i) => (i + .5) / (2 * LOOK))

// The pixels at ``place`` of each two PARTS, as grey values without their mean.
function lookAt(image, place) {
  const grey = new Float32Array(LOOK * LOOK)
  PARTS.forEach((v, j) => PARTS.forEach((u, i) => {
    const [x, y] = place(u, v)
    const column = within(Math.trunc(x), 0, image.width - 1), row = within(Math.trunc(y), 0, image.height - 1)
    grey[(j >> 1) * LOOK + (i >> 1)] += image.data[(row * image.width + column) * 3 + 1] / 4
  }))
  const middle = grey.reduce((a, b) => a + b) / grey.length
  return grey.map((value) => value - middle)
}

export function thumbnail(image, [corner, across]) {
  return lookAt(image, (u, v) => add(corner, mul(across, [u, v])))
}

export function thumbnailOfAll(image) {
  return lookAt(image, (u, v) => [u * image.width, v * image.height])
}

export function likeness(a, b) {
  const dot = (x, y) => x.reduce((sum, value, i) => sum + value * y[i], 0)
  return (dot(a, b) + NOISE) / ((dot(a, a) + NOISE) * (dot(b, b) + NOISE)) ** .5
}
