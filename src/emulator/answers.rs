//! The canned answers of the embedded ALİM: seven pieces of farming advice, chosen by the words of the
//! message.
//!
//! Letters are folded first, so `GÜBRƏ`, `gübrə` and `gubre` are the same word. A stem matches all
//! forms of a word (`suvar`: suvarma, suvarmalı, suvarıram). The same message always gets the same
//! text, from `invoke` and from `stream`.

/// One answer, with the metadata that the graph reports about it.
#[derive(Debug)]
pub(super) struct Answer {
    /// The caller's intent, as the graph names it.
    pub(super) intent: &'static str,
    /// The graph's nodes, in the order in which they ran.
    pub(super) nodes: &'static [&'static str],
    /// The whole text, with markdown lists.
    pub(super) text: &'static str,
    /// Folded word prefixes that select this answer.
    stems: &'static [&'static str],
}

impl Answer {
    /// Returns the first answer with a stem that a word of `message` begins with. If there is none,
    /// returns a question to the caller.
    pub(super) fn choose(message: &str) -> &'static Self {
        let letters = message.chars().flat_map(char::to_lowercase);
        let words: String = std::iter::once(' ')
            .chain(letters.filter_map(fold))
            .collect();
        let mentions = |stem: &&str| words.contains(&format!(" {stem}"));
        TOPICS
            .iter()
            .find(|answer| answer.stems.iter().any(mentions))
            .unwrap_or(&QUESTION)
    }
}

/// Maps an Azerbaijani letter to the one that is typed on a keyboard without it. Word separators become
/// a space. Combining marks are removed (the lower case of `İ` has one).
fn fold(letter: char) -> Option<char> {
    match letter {
        'ə' => Some('e'),
        'ı' => Some('i'),
        'ö' => Some('o'),
        'ü' => Some('u'),
        'ç' => Some('c'),
        'ş' => Some('s'),
        'ğ' => Some('g'),
        '\u{300}'..='\u{36f}' => None,
        letter if letter.is_alphanumeric() => Some(letter),
        _ => Some(' '),
    }
}

/// Tried in this order. The greeting is last: a message that greets and asks gets the answer to its question.
static TOPICS: [Answer; 6] = [
    Answer {
        intent: "irrigation",
        nodes: &[
            "classify_intent",
            "retrieve_weather",
            "retrieve_knowledge",
            "generate_response",
        ],
        stems: &[
            "suvar", "susuz", "quraq", "damci", "irrig", "drought", "water",
        ],
        text: "Suvarmalısınız, amma əvvəlcə torpağın rütubətini yoxlayın: 10–15 sm dərinlikdən \
bir ovuc torpaq götürüb sıxın. Torpaq ovulub dağılırsa, suvarma vaxtıdır.

Nə etməli:
- Səhər tezdən və ya axşam suvarın: günorta suyun xeyli hissəsi buxarlanır.
- Mümkündürsə, damcılı suvarmaya keçin; o, şırım suvarmasından xeyli az su aparır.
- Cərgə aralarını yumşaldın və malçalayın ki, rütubət torpaqda qalsın.
- Gilli torpağı seyrək və bol, qumlu torpağı tez-tez və az-az suvarın.

Yaxın günlərdə yağış gözlənilirsə, suvarma normasını azaldın.",
    },
    Answer {
        intent: "pest_control",
        nodes: &["classify_intent", "retrieve_knowledge", "generate_response"],
        stems: &[
            "zererveri",
            "heserat",
            "menene",
            "xestelik",
            "sovka",
            "pest",
            "insect",
            "aphid",
            "disease",
        ],
        text: "Əvvəlcə zərərvericini dəqiq müəyyən edin: yarpaqların alt tərəfinə, cavan zoğlara \
və gövdənin dibinə baxın.

Tövsiyələr:
- Mənənə azdırsa, zədələnmiş zoğları kəsib sahədən kənarda məhv edin.
- Yapışqanlı sarı tələlər asın və onları həftədə iki dəfə yoxlayın.
- Parabüzən kimi faydalı həşəratları qoruyun, geniş təsirli preparatları yersiz işlətməyin.
- Kimyəvi dərmanı yalnız zərərverici çoxalanda, axşamüstü, küləksiz havada və etiketdəki dozada \
çiləyin.

Çiləmədən sonra gözləmə müddəti bitməyincə məhsulu yığmayın.",
    },
    Answer {
        intent: "fertilization",
        nodes: &["classify_intent", "retrieve_knowledge", "generate_response"],
        stems: &[
            "gubre", "azot", "fosfor", "kalium", "peyin", "fertil", "manure", "nitrogen",
        ],
        text: "Gübrə normasını torpaq analizinə görə seçin: analizsiz verilən gübrə həm pul \
itkisidir, həm də torpağı korlaya bilər.

Taxıl üçün ümumi qayda:
- Payızda şum altına bunları verin:
  - fosfor gübrəsi
  - kalium gübrəsi
- Azotun əsas hissəsini erkən yazda, kollanma fazasında verin.
- Çürümüş peyini 3–4 ildən bir, hektara 20–30 ton hesabı ilə şum altına salın.
- Güclü yağışdan əvvəl azot səpməyin: yuyulub gedər.

Dəqiq norma üçün torpaq analizinin nəticəsini yazın.",
    },
    Answer {
        intent: "weather",
        nodes: &["classify_intent", "retrieve_weather", "generate_response"],
        stems: &[
            "hava", "yagis", "saxta", "kulek", "proqnoz", "weather", "rain", "frost", "forecast",
        ],
        text: "Tarla işlərini havaya görə planlaşdırın.

Nəyə diqqət etməli:
- Külək güclüdürsə, çiləməni təxirə salın.
- Şaxta gözlənilirsə, tingləri axşamdan örtün və torpağı suvarın: nəm torpaq gecə istiliyi daha \
yaxşı saxlayır.
- Güclü yağışdan əvvəl gübrə səpməyin, drenaj arxlarını təmizləyin.
- Temperatur 35 °C-dən yuxarı olan günlərdə işləri səhər saatlarına keçirin.

Rəsmi proqnozu hər səhər yoxlayın və planı ona uyğun dəqiqləşdirin.",
    },
    Answer {
        intent: "livestock",
        nodes: &["classify_intent", "retrieve_knowledge", "generate_response"],
        stems: &[
            "mal qara",
            "malqara",
            "inek",
            "iney",
            "buzov",
            "qoyun",
            "quzu",
            "heyvan",
            "livestock",
            "cattle",
            "cow",
            "sheep",
        ],
        text: "Mal-qaranın sağlamlığı təmiz sudan, balanslı yemdən və vaxtında vurulan peyvənddən \
başlayır.

Hər gün nəzarət edin:
- Sağmal inəyin qarşısında həmişə təmiz su olsun: o, gündə 60–80 litr, istidə daha çox içir.
- Yemi qəfil dəyişməyin: keçid 7–10 gün çəkməlidir.
- Rasionun əsası ot, saman və silos olsun; qüvvəli yemi süd məhsuldarlığına görə verin.
- Peyvəndlərin və qurd dərmanlarının vaxtını baytarla birlikdə təqvimə yazın.

Heyvan yemdən kəsilibsə və ya qızdırması varsa, onu sürüdən ayırın və baytar həkimi çağırın.",
    },
    Answer {
        intent: "greeting",
        nodes: &["classify_intent", "generate_response"],
        stems: &["salam", "merhaba", "hello"],
        text: "Salam! Mən ALİM, əkinçilərin və fermerlərin köməkçisiyəm.

Bu mövzularda sual verə bilərsiniz:
- suvarma və quraqlıq
- zərərvericilər və bitki xəstəlikləri
- gübrələmə
- hava və tarla işləri
- mal-qaranın bəslənməsi

Sualınızı yazın: hansı bitki, hansı rayon və nə müşahidə edirsiniz?",
    },
];

/// The answer to a message without a known topic.
static QUESTION: Answer = Answer {
    intent: "general",
    nodes: &["classify_intent", "generate_response"],
    stems: &[],
    text: "Dəqiq cavab vermək üçün bir az məlumat lazımdır.

Zəhmət olmasa, yazın:
- hansı bitkini becərirsiniz və ya hansı heyvanı saxlayırsınız
- təsərrüfatınız hansı rayondadır
- problem nə vaxt və necə başlayıb

Bu məlumatla daha faydalı məsləhət verə bilərəm.",
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_select_the_answer_in_any_case_and_without_diacritics() {
        for (message, intent) in [
            ("Fermada susuzluq var, nə edim?", "irrigation"),
            ("SUVARMALIYAM?", "irrigation"),
            ("Pambıqda ZƏRƏRVERİCİ gördüm", "pest_control"),
            ("zererverici var", "pest_control"),
            ("Buğdaya hansı gübrə lazımdır", "fertilization"),
            ("sabah yağış olacaq?", "weather"),
            ("Mal-qara üçün yem", "livestock"),
            ("mal qara", "livestock"),
            ("inəyim xəstədir", "livestock"),
            ("Salam, əkinçiliklə bağlı sualım var.", "greeting"),
            ("terrain", "general"),
            ("", "general"),
        ] {
            assert_eq!(Answer::choose(message).intent, intent, "{message}");
        }
    }
}
