// Faces followed from picture to picture of a video, as coral_age/tracks.py follows them; its
// comments tell where the numbers come from.
"use strict"
import {findAgain, findFaces, likeness, overlap, square, thumbnail, thumbnailOfAll} from "./faces.js"

const OVERLAP = .3, HIDDEN = .2, PATIENCE = 1, BRIEF = .25, ALIKE = .75, CUT = .5
const SEARCH = .25  // seconds from one search of all of a picture to the next
const WINDOW = 128

const median = (some) => {
  const sorted = [...some].sort((a, b) => a - b), half = sorted.length >> 1
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2
}

// What is known of a video while it is looked at.
export function newClip() {
  return {tracks: new Map(), count: 0, times: [], boxes: [], searched: -Infinity, look: null,
    seen: [], seenAt: -Infinity, cut: -Infinity, changed: -Infinity, brief: [], longer: false}
}

function usualGap({times}) {
  return times.length > 1 ? median(times.slice(1).map((time, i) => time - times[i])) : 0
}

// Where a track's face is at a time, if it went on as in its last pictures.
export function expectedBox({places}, seconds) {
  const last = places.at(-1)
  let centre, half
  if (seconds - last[0] > HIDDEN) {
    const middle = (i) => places.reduce((sum, p) => sum + p[i], 0) / places.length
    const spread = places.reduce((sum, p) => sum + (p[0] - middle(0)) ** 2, 0)
    centre = [1, 2].map((i) => middle(i) + (seconds - middle(0)) *
      places.reduce((sum, p) => sum + (p[0] - middle(0)) * p[i], 0) / Math.max(spread, 1e-9))
    half = [3, 4].map((i) => median(places.map((p) => p[i])) / 2)
  } else {
    const first = places.slice(-10)[0], time = Math.max(last[0] - first[0], 1e-9)
    centre = [1, 2].map((i) => last[i] + (last[i] - first[i]) / time * (seconds - last[0]))
    half = [last[3] / 2, last[4] / 2]
  }
  return [centre[0] - half[0], centre[1] - half[1], centre[0] + half[0], centre[1] + half[1]]
}

function withLook(image, face) {
  const place = square(face.points)
  return {box: face.box, place, look: thumbnail(image, place)}
}

function hasChanged(face, clip, image) {
  if (clip.cut > clip.seenAt) return true
  const before = clip.seen.filter((last) => overlap(face.box, last.box)[0] >= OVERLAP)
  return before.length > 0 && before.every((last) => likeness(face.look, last.look) < ALIKE &&
    likeness(thumbnail(image, last.place), last.look) < ALIKE)
}

async function find(image, clip, seconds, detect) {
  if (seconds - clip.searched < SEARCH - 1e-6 && clip.cut <= clip.searched) {
    const few = clip.boxes.length * WINDOW ** 2 < image.width * image.height
    const faces = few ? await findAgain(image, clip.boxes, detect) : await findFaces(image, detect)
    const found = faces.map((face) => face.box)
    clip.boxes = [...found, ...clip.boxes.filter((box) =>
      found.every((other) => Math.max(...overlap(box, other)) < OVERLAP))]
    return [faces, false]
  }
  const faces = await findFaces(image, detect)
  clip.boxes = faces.map((face) => face.box)
  clip.searched = seconds
  return [faces, true]
}

async function findChanged(image, clip, seconds, detect) {
  const [faces, asked] = await find(image, clip, seconds, detect)
  const seen = faces.map((face) => withLook(image, face))
  const changed = seen.map((face) => hasChanged(face, clip, image))
  if (changed.includes(true)) {
    clip.changed = seconds
    if (!asked) {
      clip.searched = -Infinity
      return findChanged(image, clip, seconds, detect)
    }
  }
  clip.seen = seen
  clip.seenAt = seconds
  return {faces, asked, changed, looks: seen.map((face) => face.look), change: clip.changed}
}

function follow(clip, found, boxes, seconds, answers) {
  const pairs = [], last = clip.times.at(-2) ?? clip.times.at(-1)
  for (const [number, track] of clip.tracks) {
    const expected = expectedBox(track, seconds), waited = track.until < Math.min(last, found.change)
    boxes.forEach((box, i) => {
      const same = likeness(track.look, found.looks[i]) >= ALIKE
      if (same || !(waited || found.changed[i])) pairs.push([overlap(expected, box)[0], number, i])
    })
  }
  pairs.sort((a, b) => b[0] - a[0] || b[1] - a[1] || b[2] - a[2])
  const tracks = new Map(), taken = new Set()
  for (const [value, number, i] of pairs)
    if (value >= OVERLAP && !tracks.has(i) && !taken.has(number)) {
      tracks.set(i, clip.tracks.get(number))
      taken.add(number)
    }
  boxes.forEach((box, i) => {
    if (!tracks.has(i) && found.asked) {
      const track = {face: ++clip.count, places: [], frames: 0, asked: 0, sum: null, seconds,
        doubts: {}}
      clip.tracks.set(track.face, track)
      tracks.set(i, track)
    }
    const track = tracks.get(i)
    if (!track) return
    const [width, height] = [box[2] - box[0], box[3] - box[1]]
    Object.assign(track, {box, until: seconds, frames: track.frames + 1, look: found.looks[i]})
    track.places = [...track.places, [seconds, box[0] + width / 2, box[1] + height / 2, width, height]].slice(-30)
    if (found.asked) {
      track.asked += 1
      for (const reason of answers[i].doubts) track.doubts[reason] = (track.doubts[reason] ?? 0) + 1
      track.sum = track.sum ? track.sum.map((p, k) => p + answers[i][k]) : [...answers[i]]
    }
  })
  return [...tracks].sort((a, b) => a[0] - b[0]).map(([, track]) => track)
}

// The tracks whose face was last found before a time, which end with that; those shorter than
// BRIEF only if there are no others in the end.
function ended(clip, before) {
  const told = [], gap = usualGap(clip)
  for (const [number, track] of clip.tracks) {
    if (!(track.until < before)) continue
    clip.tracks.delete(number)
    const brief = track.until - track.seconds + gap < BRIEF - 1e-6
    ;(brief ? clip.brief : told).push(track)
  }
  clip.longer ||= told.length > 0
  return told
}

export function lastTracks(clip) {
  const told = ended(clip, Infinity)
  return clip.longer ? told : clip.brief
}

// Look at the next picture: the tracks of its faces, and those that have ended. ``ask`` answers for
// faces, with a list of probabilities each, whose mean over a track is its ``sum`` / ``asked``.
export async function nextPicture(image, clip, seconds, detect, ask) {
  const look = thumbnailOfAll(image)
  if (clip.look && likeness(look, clip.look) < CUT) clip.cut = clip.changed = seconds
  clip.look = look
  const found = await findChanged(image, clip, seconds, detect)
  const answers = found.asked ? await ask(found.faces) : []
  clip.times = [...clip.times, seconds].slice(-10)
  const told = ended(clip, seconds - Math.max(PATIENCE, 2 * usualGap(clip)))
  const limits = [image.width, image.height, image.width, image.height]
  const boxes = found.faces.map((face) => face.box.map((x, i) => Math.min(Math.max(Math.round(x), 0), limits[i])))
  const tracks = follow(clip, found, boxes, seconds, answers)
  return {tracks, ended: [...told, ...ended(clip, clip.cut)]}
}
