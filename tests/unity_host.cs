// Plays Unity: observations come on stdin, actions leave on stdout, as floats. Resets before the
// row that is given.
using System;
using System.IO;

static class Host
{
    static int Main(string[] words)
    {
        var input = new BinaryReader(Console.OpenStandardInput());
        var output = new BinaryWriter(Console.OpenStandardOutput());
        var obs = new float[AgentkdExecutor.ObsSize];
        int rows = int.Parse(words[0]), reset = int.Parse(words[1]);
        using (var brain = new AgentkdExecutor())
        {
            for (int row = 0; row < rows; row++)
            {
                if (row == reset) brain.Reset();
                for (int i = 0; i < obs.Length; i++) obs[i] = input.ReadSingle();
                if (!brain.Act(obs)) return 5;
                foreach (float each in brain.Action) output.Write(each);
            }
            obs[0] = float.NaN;
            if (brain.Act(obs)) return 6;
            try { brain.Act(new float[obs.Length + 1]); return 7; }
            catch (ArgumentException) { }
        }
        output.Flush();
        return 0;
    }
}
