// The system under test: the local system as `make run` starts it, on ports and in
// a folder of its own. ALMANAC_LOCAL names the status file of one that runs already.
import { spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'

export type Person = { username: string; password: string; token: string }
export type Local = { http: string; grpc: string; users: { super_admin: Person; admin: Person; user: Person } }

/** Where the system is and who may use it. */
export const local = (): Local => JSON.parse(readFileSync(process.env.ALMANAC_LOCAL!, 'utf8')) as Local

export default async function start() {
  if (process.env.ALMANAC_LOCAL) return
  const bin = resolve(process.env.ALMANAC_BIN ?? '../../bin')
  const folder = mkdtempSync(join(tmpdir(), 'almanac-browser-'))
  const said: string[] = []
  const system = spawn(join(bin, 'almanac-local'), ['run', '--unlimited', '--data-dir', folder, '--http-addr', '127.0.0.1:0', '--grpc-addr', '127.0.0.1:0'], {
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const ended = new Promise<number | null>((done) => system.once('exit', (code) => done(code)))
  system.stderr.on('data', (text: Buffer) => said.push(text.toString()))
  const status = join(folder, 'local.json')
  await new Promise<void>((ready, fail) => {
    // Its last words before it is up: what it prints then has the addresses.
    system.stdout.on('data', (text: Buffer) => {
      said.push(text.toString())
      if (existsSync(status)) ready()
    })
    void ended.then((code) => fail(new Error(`the local system ended with ${code}:\n${said.join('')}`)))
  })
  process.env.ALMANAC_LOCAL = status
  return async () => {
    system.kill('SIGINT')
    await ended
    rmSync(folder, { recursive: true, force: true })
  }
}
